"""Modules with the weights a stage starts from."""

from __future__ import annotations

from torch import nn

from vita_train.models.build import build_modules
from vita_train.models.checkpoint.load import load_modules
from vita_train.recipe.schema import Recipe
from vita_train.storage.cache import fetch_file
from vita_train.training.inputs import Inputs


def load_inputs(recipe: Recipe, inputs: Inputs, names: tuple[str, ...], *, units: int) -> nn.ModuleDict:
    """Return modules with the newest weights: of an earlier stage, of the pretrained source, or freshly drawn."""
    known = [name for name in names if name in inputs.modules]
    fresh = [name for name in names if name not in inputs.modules]
    built = {**build_modules(recipe.model, known, units=units, seed=recipe.seed, pretrained=False),
             **build_modules(recipe.model, fresh, units=units, seed=recipe.seed)}
    files = {name: [fetch_file(file, endpoint=recipe.storage.endpoint) for file in inputs.modules[name].files]
             for name in known}
    load_modules({name: built[name] for name in known}, files)
    return nn.ModuleDict({name: built[name] for name in names})
