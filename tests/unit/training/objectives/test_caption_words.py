"""The bootstrap tower's objective: what it masks, how it pools, and that it learns where things
are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.errors import raises_code
from tests.helpers.no_source import NO_SOURCE
from tests.helpers.toy import toy_context
from vita_train.errors import DataError
from vita_train.models.build import build_modules
from vita_train.recipe.schema import Recipe
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.augment import sample_generator
from vita_train.training.objectives.caption_words import CaptionWordsObjective, pool_votes, recolour


def build(**options: Any) -> CaptionWordsObjective:
    recipe = Recipe.model_validate(
        {
            "name": "toy",
            "model": {
                "dtype": "float32",
                "vision": {
                    "image_size": 16,
                    "patch_size": 4,
                    "hidden_size": 16,
                    "num_layers": 1,
                    "num_heads": 2,
                    "intermediate_size": 32,
                    "drop_path": 0.0,
                },
            },
            "data": NO_SOURCE,
            "stages": {
                "0.vision": {
                    "objective": "caption_words",
                    "data": {"caption": 1.0},
                    "steps": 5,
                    "trainable": {"vision": 1e-3},
                    "options": {"min_count": 2, **options},
                }
            },
        }
    )
    captions = [
        ["describe", "a red ball"],
        ["describe", "a blue ball"],
        ["describe", "a red cube"],
        ["describe", "a blue cube"],
        ["describe", "a rare thing"],
    ]
    index = SimpleNamespace(column=lambda name: captions)
    context = toy_context(recipe, "0.vision")
    object.__setattr__(context, "corpus", SimpleNamespace(index=lambda dataset, split: index))
    made = CaptionWordsObjective(context, build_modules(recipe.model, ("vision",), seed=0))
    apply_trainable(made, {"vision": 1e-3})
    return made


def sample(index: int, text: str, split: str = "train") -> Any:
    pixels = np.random.default_rng(index).integers(0, 255, (1, 16, 16, 3), dtype=np.uint8)
    return SimpleNamespace(
        id=f"caption/{split}/{index}", split=split, text=text, load_pixels=lambda: pixels
    )


def test_words_and_labels() -> None:
    made = build()
    assert made.words == ["a", "ball", "blue", "cube", "red"]
    batch = made.collate([sample(0, "A red ball."), sample(1, "a rare cube")], seed=0)
    assert batch.labels.tolist() == [[1, 1, 0, 0, 1], [1, 0, 0, 1, 0]]
    assert made.weight(batch) == made(batch).count == 10
    assert batch.tiles.dtype == torch.uint8


def test_recoloured_pictures_are_not_asked_for_colours() -> None:
    made = build(permute_colours=1.0, colour_words="red blue green")
    batch = made.collate([sample(0, "a red ball")], seed=0)
    assert batch.labels.tolist() == [[1, 1, -1, 0, -1]]
    assert made.weight(batch) == 3
    loss = made(batch).loss_sum
    batch.labels[0, 2] = -1
    with torch.no_grad():
        made.head.bias[2] += 5  # a word that is not asked for
    assert float(made(batch).loss_sum.detach()) == pytest.approx(float(loss.detach()))
    held_out = made.collate([sample(0, "a red ball", "dev")], seed=0)
    assert held_out.labels.tolist() == [[1, 1, 0, 0, 1]]


def test_recolouring_moves_channels_alone() -> None:
    pixels = sample(3, "").load_pixels()
    for name in "abcdef":
        changed = recolour(pixels, sample_generator(0, name))
        for channel in range(3):
            found = changed[..., channel]
            assert any(
                np.array_equal(found, source)
                for source in [pixels[..., other] for other in range(3)]
                + [255 - pixels[..., other] for other in range(3)]
            )


def test_colours_must_be_named() -> None:
    with raises_code(DataError, "VT-DATA-037"):
        build(permute_colours=0.5)


def test_one_token_is_enough_and_tiles_of_a_picture_are_joined() -> None:
    votes = torch.full((3, 4, 2), -4.0)
    votes[1, 2, 0] = 9.0
    pooled = pool_votes(votes, torch.tensor([0, 0, 1]), 2)
    assert pooled[0, 0] > 8
    assert (pooled[[0, 1, 1], [1, 0, 1]] < 0).all()


def test_head_trains_and_is_no_module_of_the_model() -> None:
    made = build()
    assert list(made.model_modules()) == ["vision"]
    assert made.head.weight.requires_grad
