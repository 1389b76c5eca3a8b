"""Slow-fast pooling against torch's interpolation, tile by tile."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.errors import raises_code
from vita_train.errors import DataError
from vita_train.models.vision.pooling import pool_tiles
from vita_train.recipe.data import VideoSpec
from vita_train.recipe.visual import TileTokens, video_tokens


@pytest.mark.parametrize("grid", [16, 4, 27])
def test_every_tile_is_pooled_by_itself_and_stays_in_its_place(grid: int) -> None:
    counts = video_tokens(9, TileTokens(grid**2, grid**2), VideoSpec(slowfast=True))
    counts.insert(3, grid**2)  # an image's tile among them keeps all
    features = torch.randn(10, grid**2, 6, requires_grad=True)
    expected = []
    for tile, count in zip(features, counts, strict=True):
        side = round(count**0.5)
        image = tile.T.reshape(1, 6, grid, grid)
        expected.append(F.interpolate(image, (side, side), mode="bilinear").reshape(6, count).T)
    pooled = pool_tiles(features, torch.tensor(counts))
    assert pooled.shape == (sum(counts), 6)
    torch.testing.assert_close(pooled, torch.cat(expected), atol=1e-6, rtol=0)
    weights = torch.randn_like(pooled)
    (mine,) = torch.autograd.grad((pooled * weights).sum(), features)
    (plain,) = torch.autograd.grad((torch.cat(expected) * weights).sum(), features)
    torch.testing.assert_close(mine, plain, atol=1e-5, rtol=0)


def test_tiles_and_counts_must_agree() -> None:
    with raises_code(DataError, "VT-DATA-035"):
        pool_tiles(torch.zeros(3, 16, 2), torch.tensor([9, 4]))
