"""A model small enough to run in milliseconds."""

from __future__ import annotations

import pytest
from torch import nn

from vita_train.models.build import build_modules
from vita_train.models.omni import Omni
from vita_train.recipe.model import ModelSpec

OMNI = ("llm", "vision", "projector", "audio_encoder", "audio_adapter")


@pytest.fixture(scope="session")
def small_spec() -> ModelSpec:
    return ModelSpec.model_validate({
        "dtype": "float32",
        "llm": {"vocab_size": 97, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
                "intermediate_size": 48, "max_positions": 256, "rope_theta": 10000.0},
        "vision": {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_layers": 2, "num_heads": 2,
                   "intermediate_size": 24, "drop_path": 0.0},
        "audio_encoder": {"width": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "max_positions": 100},
        "audio_adapter": {"hidden_size": 24},
        "speech_decoder": {"width": 16},
    })


@pytest.fixture
def modules(small_spec: ModelSpec) -> nn.ModuleDict:
    return build_modules(small_spec, OMNI, seed=3).eval()


@pytest.fixture
def omni(modules: nn.ModuleDict) -> Omni:
    return Omni(modules).eval()
