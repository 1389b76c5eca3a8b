"""The vision projector."""

from __future__ import annotations

from torch import nn

from vita_train.recipe.model import ModelSpec


def build_projector(spec: ModelSpec) -> nn.Sequential:
    """Return ``mlp2x_gelu``: (N, P, feature_size) to (N, P, llm.hidden_size); parameters ``0.*`` and ``2.*``."""
    width = spec.llm.hidden_size
    return nn.Sequential(nn.Linear(spec.vision.feature_size, width), nn.GELU(), nn.Linear(width, width))
