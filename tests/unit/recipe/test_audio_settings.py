"""Settings of the speech encoder and its adapters: strict by kind, written in full."""

from __future__ import annotations

from typing import Any

import pytest

from vita_train.errors import RecipeError
from vita_train.recipe.audio import CnnAdapterSpec, LinearAdapterSpec, SubsamplingAdapterSpec
from vita_train.recipe.load import dump_recipe, load_recipe, parse_recipe
from vita_train.recipe.model import ModelSpec


def adapter(**settings: Any) -> Any:
    return ModelSpec.model_validate({"audio_adapter": settings}).audio_adapter


def test_the_kind_chooses_the_adapter() -> None:
    assert isinstance(adapter(), SubsamplingAdapterSpec)
    assert isinstance(adapter(kernel=3), SubsamplingAdapterSpec)
    assert isinstance(adapter(kind="cnn", kernel=3), CnnAdapterSpec)
    assert isinstance(adapter(kind="linear"), LinearAdapterSpec)
    assert adapter(prompt_tokens=25).modules == ("audio_encoder", "audio_adapter", "audio_prompt")


@pytest.mark.parametrize(
    "setting",
    [
        "model.audio_adapter={kind: linear, kernel: 5}",
        "model.audio_adapter={kind: conformer}",
        "model.audio_adapter.stride=0",
        "model.audio_encoder.chunk_size=-1",
        "model.audio_encoder.left_chunks=-2",
    ],
)
def test_what_a_kind_does_not_have_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match=r"audio_adapter|audio_encoder"):
        load_recipe("vita-1.5-7b", [setting])


def test_every_setting_is_written_and_read_back() -> None:
    spec = ModelSpec()
    assert spec.model_dump()["audio_adapter"] == {
        "kind": "subsampling",
        "prompt_tokens": 0,
        "kernel": 5,
        "stride": 2,
        "hidden_size": 2048,
        "norm": "layer",
        "activation": "gelu",
    }
    assert {"attention_dropout", "chunk_size", "left_chunks"} <= set(
        spec.model_dump()["audio_encoder"]
    )
    recipe = load_recipe(
        "vita-1.5-7b",
        [
            "model.audio_adapter={norm: batch, prompt_tokens: 25}",
            "model.audio_encoder.chunk_size=16",
            "model.audio_encoder.left_chunks=0",
        ],
    )
    assert parse_recipe(dump_recipe(recipe), "written") == recipe
    assert recipe.model.model_dump()["audio_encoder"]["left_chunks"] == 0
