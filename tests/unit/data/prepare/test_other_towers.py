"""Data are cut, counted and normalised for the tower and the projector that the recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.data_world import recipe
from vita_train.data.index.corpus import Corpus
from vita_train.data.loading.batch import Batch
from vita_train.data.loading.collate import collate_rows
from vita_train.data.prepare.run import prepare
from vita_train.models.build import build_modules
from vita_train.models.omni import Omni
from vita_train.recipe.special_ids import IMAGE_ID

SHAPE = {
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 24,
    "patch_size": 8,
}


def batch_of(corpus: Corpus) -> Batch:
    """The first image and the video, each in a row."""
    index = corpus.index("look", "train")
    return collate_rows([[index.sample(0)], [index.sample(len(index) - 1)]], pad_id=0, seq_len=128)


@pytest.mark.parametrize(
    ("vision", "projector", "side", "positions", "white"),
    [
        (
            {"kind": "siglip", "image_size": 26, "scales": [26, 52], **SHAPE},
            "ldp",
            52,
            4,
            (1.0, 1.0, 1.0),
        ),
        ({"kind": "clip", "image_size": 32, **SHAPE}, "vanilla", 32, 4, (1.9303, 2.0749, 2.1459)),
        (
            {"kind": "eva_clip", "image_size": 24, **SHAPE},
            "spp_v3",
            24,
            1,
            (1.9303, 2.0749, 2.1459),
        ),
    ],
)
def test_placeholders_pixels_and_features_agree(
    vision: dict[str, Any],
    projector: str,
    side: int,
    positions: int,
    white: tuple[float, ...],
    registry: Path,
    tmp_path: Path,
) -> None:
    model = {**recipe().model.model_dump(), "vision": vision, "projector": {"kind": projector}}
    model["llm"] |= {"num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 32}
    made = recipe(model=model)
    prepare(made, registry, tmp_path / "corpus", progress=lambda _: None)
    batch = batch_of(Corpus.open(tmp_path / "corpus"))
    assert batch.tiles is not None
    assert batch.tiles.shape[1:] == (3, side, side)
    assert int((batch.input_ids == IMAGE_ID).sum()) == positions * len(batch.tiles)

    omni = Omni(build_modules(made.model, ("llm", "vision", "projector"))).eval()
    with torch.no_grad():
        assert omni.image_features(batch.tiles).shape == (positions * len(batch.tiles), 64)
        assert omni(batch).isfinite().all()  # every feature found its placeholder

    seen: list[torch.Tensor] = []
    omni.vision.encode = lambda pixels: seen.append(pixels) or torch.zeros(1, 1, 1)
    omni.vision(torch.full((1, 3, side, side), 255, dtype=torch.uint8))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor(white), atol=1e-4, rtol=0)
