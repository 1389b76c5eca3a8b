"""Modules with the weights a stage starts from."""

from __future__ import annotations

from torch import nn

from vita_train.models.build import build_modules
from vita_train.recipe.schema import Recipe
from vita_train.training.inputs import Inputs
from vita_train.weights.module_refs import load_refs


def load_inputs(
    recipe: Recipe, inputs: Inputs, names: tuple[str, ...], *, ctc_vocab_size: int
) -> nn.ModuleDict:
    """Return modules with the newest weights: of an earlier stage, of the pretrained source, or
    freshly drawn."""
    known = {name: inputs.modules[name] for name in names if name in inputs.modules}
    fresh = [name for name in names if name not in known]
    built = {
        **load_refs(
            recipe.model, known, ctc_vocab_size=ctc_vocab_size, endpoint=recipe.storage.endpoint
        ),
        **build_modules(recipe.model, fresh, ctc_vocab_size=ctc_vocab_size, seed=recipe.seed),
    }
    return nn.ModuleDict({name: built[name] for name in names})
