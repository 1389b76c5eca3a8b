"""S2: one tile at several sizes through one tower, the features joined (Shi et al. 2024, section
3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def squares(tiles: Tensor, scales: Sequence[int]) -> Tensor:
    """Cut tiles, resized to every scale, into squares of the first scale.

    Resizing is bicubic without smoothing, as in the public code.

    Args:
        tiles: (N, 3, S, S) floats.
        scales: sides in pixels, multiples of the first.

    Returns:
        (squares, 3, scales[0], scales[0]): scale by scale, in each row by row over the tile, in
        each place all tiles.
    """
    side = scales[0]
    cut = []
    for scale in scales:
        view = F.interpolate(tiles.float(), size=scale, mode="bicubic").to(tiles.dtype)
        rows = view.unfold(2, side, side).unfold(3, side, side)  # (N, 3, rows, columns, side, side)
        # (N, 3, rows, columns, side, side) -> (rows * columns * N, 3, side, side)
        cut.append(rows.permute(2, 3, 0, 1, 4, 5).reshape(-1, view.shape[1], side, side))
    return torch.cat(cut)


def joined_scales(features: Tensor, scales: Sequence[int]) -> Tensor:
    """Put the features of ``squares`` back in place, average each scale to the first one's grid,
    join the channels.

    Args:
        features: (squares, tokens, C), tokens a square row by row.
        scales: as given to ``squares``.

    Returns:
        (N, tokens, C * len(scales)), channels ordered (scale, c).
    """
    grid = round(features.shape[1] ** 0.5)
    counts = [scale // scales[0] for scale in scales]
    tiles = len(features) // sum(count**2 for count in counts)
    joined = []
    for part, count in zip(
        features.split([tiles * count**2 for count in counts]), counts, strict=True
    ):
        placed = part.unflatten(1, (grid, grid)).unflatten(0, (count, count, tiles))
        # (count, count, N, grid, grid, C) -> (N, C, count * grid, count * grid): squares back side
        # by side
        whole = placed.permute(2, 5, 0, 3, 1, 4).reshape(tiles, -1, count * grid, count * grid)
        # area over a whole multiple is the plain mean
        joined.append(F.interpolate(whole.float(), size=grid, mode="area").to(features.dtype))
    return torch.cat(joined, 1).flatten(2).transpose(1, 2)
