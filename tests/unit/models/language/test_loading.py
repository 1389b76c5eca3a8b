"""A pretrained language model is loaded whole, or refused with the names of what does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.helpers.errors import raises_code
from vita_train.errors import CheckpointError
from vita_train.models.language.decoder import build_llm, load_llm
from vita_train.recipe.model import LlmSpec

Tensors = dict[str, Tensor]
SPEC = LlmSpec(
    vocab_size=64,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=32,
    max_positions=64,
)


def source(at: Path, change: Callable[[Tensors], Tensors], spec: LlmSpec = SPEC) -> str:
    """Save a model, its tensors changed."""
    torch.manual_seed(0)
    build_llm(spec).save_pretrained(at)
    tensors = load_file(at / "model.safetensors")
    save_file(
        {name: tensor.contiguous() for name, tensor in change(tensors).items()},
        at / "model.safetensors",
        metadata={"format": "pt"},
    )
    return str(at)


def prefixed(tensors: Tensors) -> Tensors:
    return {f"language_model.{name}": tensor for name, tensor in tensors.items()}


def without(pattern: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        name: tensor for name, tensor in tensors.items() if not re.search(pattern, name)
    }


def poisoned(tensors: Tensors) -> Tensors:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    return tensors


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_source_is_taken(tmp_path: Path, tied: bool) -> None:
    spec = SPEC.model_copy(update={"tie_embeddings": tied})
    path = source(tmp_path, lambda tensors: tensors, spec)
    torch.manual_seed(0)
    expected = build_llm(spec).state_dict()
    for name, tensor in load_llm(spec, path).state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(
    ("change", "code", "facts"),
    [
        (
            without(r"layers\.1\."),
            "VT-WEIGHTS-006",
            ["12 tensors", "model.layers.1."],
        ),
        (without("lm_head"), "VT-WEIGHTS-006", ["lm_head.weight"]),
        (
            lambda tensors: {**tensors, "extra.weight": torch.zeros(2)},
            "VT-WEIGHTS-006",
            ["1 tensors", "extra.weight", "model.llm.ignore"],
        ),
        (
            lambda tensors: {**tensors, "model.norm.weight": torch.zeros(8)},
            "VT-WEIGHTS-006",
            ["model.norm.weight"],
        ),
        (prefixed, "VT-WEIGHTS-006", ["model.llm.prefix=language_model."]),
        (
            lambda tensors: prefixed(tensors) | {"vision.proj.weight": torch.zeros(2)},
            "VT-WEIGHTS-006",
            ["model.llm.prefix=language_model.", r"model.llm.ignore=['^vision\\.']"],
        ),
        (poisoned, "VT-WEIGHTS-007", ["model.layers.1.mlp.up_proj.weight"]),
        (
            lambda tensors: {**tensors, "lm_head.weight": torch.zeros(64, 16)},
            "VT-WEIGHTS-095",
            ["lm_head.weight", "model.llm.ignore"],
        ),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(
    tmp_path: Path, change: Callable[[Tensors], Tensors], code: str, facts: list[str]
) -> None:
    path = source(tmp_path, change)
    with raises_code(CheckpointError, code, *facts):
        load_llm(SPEC, path)


def test_the_remedies_work(tmp_path: Path) -> None:
    path = source(
        tmp_path, lambda tensors: {**prefixed(tensors), "vision.proj.weight": torch.zeros(2)}
    )
    spec = SPEC.model_copy(update={"prefix": "language_model.", "ignore": (r"^vision\.",)})
    torch.manual_seed(0)
    expected = build_llm(SPEC).state_dict()
    for name, tensor in load_llm(spec, path).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_head_of_its_own_is_no_tied_one(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"tie_embeddings": True})

    def with_head(tensors: Tensors) -> Tensors:
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}

    with raises_code(CheckpointError, "VT-WEIGHTS-096", "tie_embeddings=false"):
        load_llm(spec, source(tmp_path, with_head, spec))


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    path = source(tmp_path, lambda tensors: tensors)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with raises_code(CheckpointError, "VT-WEIGHTS-097"):
        load_llm(SPEC, path)
