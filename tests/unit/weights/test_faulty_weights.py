"""Weights that a recipe names for a module: whole, or refused before the first step with names and
a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.helpers.errors import raises_code
from tests.helpers.foreign import build
from vita_train.errors import CheckpointError
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.training.inputs import Inputs
from vita_train.training.weights import load_inputs
from vita_train.weights.compare import difference
from vita_train.weights.pretrained import pretrained_modules
from vita_train.weights.save import save_modules

Tensors = dict[str, Tensor]
#: Of the modules that speak; the others are small already.
SPEECH = {
    "speech_decoder": {
        "width": 16,
        "nar_layers": 1,
        "ar_layers": 1,
        "num_heads": 2,
        "intermediate_size": 32,
        "max_positions": 64,
        "max_codes": 40,
    },
    "codec": {
        "kind": "spectral",
        "sample_rate": 16000,
        "hop_length": 400,
        "channels": 16,
        "num_blocks": 1,
        "codebook_size": 32,
        "code_dim": 8,
        "quantizer": "ema",
        "num_global_tokens": 4,
        "global_dim": 8,
        "segment": 4000,
    },
}
MODULES = (
    "llm",
    "vision",
    "projector",
    "audio_encoder",
    "audio_adapter",
    "codec",
    "speech_decoder",
)


def as_it_was(tensors: Tensors) -> Tensors:
    return tensors


def lacking(tensors: Tensors) -> Tensors:
    return dict(list(tensors.items())[1:])


def with_another(tensors: Tensors) -> Tensors:
    return {**tensors, "some.other.weight": torch.zeros(2)}


def wrapped(tensors: Tensors) -> Tensors:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def poisoned(tensors: Tensors) -> Tensors:
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    values = tensors[name].clone()
    values.view(-1)[-1] = float("inf")
    return {**tensors, name: values}


def started(recipe: Recipe, name: str, at: Path, change: Callable[[Tensors], Tensors]) -> str:
    """Start a stage from a module's file, changed; return how it differs from what was saved."""
    spec = ModelSpec.model_validate({**recipe.model.model_dump(), **SPEECH})
    saved = build(spec, 4, (name,))
    [path] = save_modules(saved, at)[name]
    save_file(change(load_file(path)), path, {"format": "pt"})
    named = recipe.model_copy(update={"model": spec, "weights": {name: str(path)}})
    return difference(
        saved, load_inputs(named, Inputs(pretrained_modules(named), {}), (name,), ctc_vocab_size=0)
    )


@pytest.mark.parametrize("name", MODULES)
def test_each_module_is_taken_whole_or_refused_by_name(
    recipe: Recipe, tmp_path: Path, name: str
) -> None:
    assert started(recipe, name, tmp_path, as_it_was) == ""
    for change, code, fact in (
        (lacking, "VT-WEIGHTS-062", name),
        (with_another, "VT-WEIGHTS-062", "some.other.weight 2"),
        (wrapped, "VT-WEIGHTS-062", "'module.'"),
        (poisoned, "VT-WEIGHTS-007", f"{name}.safetensors"),
    ):
        with raises_code(CheckpointError, code, name, fact) as refused:
            started(recipe, name, tmp_path, change)
        assert refused.value.remedy
