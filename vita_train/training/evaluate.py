"""Held-out measures of a stage's final weights."""

from __future__ import annotations

from torch import nn

from vita_train.data.index import Corpus
from vita_train.evaluation.catalogue import measures_for, modules_for
from vita_train.evaluation.measures import measure
from vita_train.recipe.ladder import MODULES
from vita_train.recipe.schema import Recipe
from vita_train.training.inputs import Inputs
from vita_train.training.weights import load_inputs


def measure_stage(stage: str, recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, inputs: Inputs
                  ) -> dict[str, float]:
    """Return the measures of a stage's slices on at most ``eval.limit`` samples each; runs on rank 0 alone.

    Modules that only measuring needs (the recogniser that listens to resynthesised speech) are loaded beside the
    trained ones where an earlier stage has made them.
    """
    names = measures_for(recipe, corpus, stage)
    if not names:
        return {}
    device = next(modules.parameters()).device
    needed = modules_for(recipe, corpus, stage)
    extra = tuple(name for name in MODULES if name in needed and name in inputs.modules and name not in modules)
    for name, module in load_inputs(recipe, inputs, extra, units=len(corpus.units)).items():
        modules[name] = module.to(device).eval()
    return measure(recipe, corpus, modules, names, limit=recipe.stages[stage].eval.limit, device=device)
