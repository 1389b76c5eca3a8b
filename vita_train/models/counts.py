"""Parameters per module, counted without allocating any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec


def count_parameters(spec: ModelSpec, names: Iterable[str], *, units: int = 0) -> dict[str, int]:
    """Return the number of parameters of each named module; tied weights count once."""
    with torch.device("meta"):
        modules = build_modules(spec, names, units=units)
    return {name: sum(parameter.numel() for parameter in module.parameters()) for name, module in modules.items()}


def count_trainable(modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, int]]:
    """Return (parameters, of which trained) of each module as it stands."""
    return {name: (sum(p.numel() for p in module.parameters()),
                   sum(p.numel() for p in module.parameters() if p.requires_grad))
            for name, module in modules.items()}
