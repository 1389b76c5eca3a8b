"""A model small enough to run in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from tests.helpers.foreign import build
from tests.helpers.no_source import NO_SOURCE
from vita_train.models.build import build_modules
from vita_train.models.omni import Omni
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe

OMNI = ("llm", "vision", "projector", "audio_encoder", "audio_adapter")


@pytest.fixture(scope="session")
def small_spec() -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "dtype": "float32",
            "llm": {
                "vocab_size": 97,
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 4,
                "num_kv_heads": 2,
                "intermediate_size": 48,
                "max_positions": 256,
                "rope_theta": 10000.0,
            },
            "vision": {
                "image_size": 32,
                "patch_size": 8,
                "hidden_size": 16,
                "num_layers": 2,
                "num_heads": 2,
                "intermediate_size": 24,
                "drop_path": 0.0,
            },
            "audio_encoder": {
                "width": 16,
                "num_layers": 2,
                "num_heads": 2,
                "intermediate_size": 24,
                "max_positions": 100,
            },
            "audio_adapter": {"hidden_size": 32},
            "speech_decoder": {"width": 16, "num_heads": 2},
        }
    )


@pytest.fixture
def modules(small_spec: ModelSpec) -> nn.ModuleDict:
    return build_modules(small_spec, OMNI, seed=3).eval()


@pytest.fixture
def omni(modules: nn.ModuleDict) -> Omni:
    return Omni(modules).eval()


@pytest.fixture
def recipe(small_spec: ModelSpec, tmp_path: Path) -> Recipe:
    stage = {
        "objective": "next_token",
        "data": {"caption": 1.0},
        "trainable": {"projector": 1e-3},
        "steps": 1,
    }
    return Recipe.model_validate(
        {
            "name": "small",
            "model": small_spec.model_dump(),
            "stages": {"1.1": stage},
            "data": NO_SOURCE,
            "storage": {"root": str(tmp_path / "runs")},
        }
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """As much of a prepared corpus as an export reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:97]
    backend = Tokenizer(
        models.BPE(vocab={letter: k for k, letter in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(
        str(tmp_path / "corpus" / "tokenizer")
    )
    (tmp_path / "corpus" / "ctc_vocab.json").write_text(
        '{"kind": "char", "units": ["<blank>", "<unk>", "a"]}'
    )
    return tmp_path / "corpus"


@pytest.fixture(scope="module")
def ours(small_spec: ModelSpec) -> nn.ModuleDict:
    """Modules for tests that do not change them."""
    return build(small_spec)
