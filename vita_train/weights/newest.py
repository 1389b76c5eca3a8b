"""The newest weights of a run."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from vita_train.errors import UserError
from vita_train.models.build import build_modules
from vita_train.recipe.modules import MODULES
from vita_train.runs.run import Run
from vita_train.weights.export import LEFT_OUT, newest_modules
from vita_train.weights.module_refs import load_refs


def load_newest(
    run: Run, *, ctc_vocab_size: int = 0, without: Collection[str] = LEFT_OUT
) -> nn.ModuleDict:
    """Return every module a run has trained, at its newest weights, and those that come pretrained,
    in eval mode.

    Args:
        run: of which at least one stage is finished.
        ctc_vocab_size: outputs of the recogniser; needed unless ``without`` names its head.
        without: modules left out.

    Raises:
        UserError: no stage of the run is finished.
        CheckpointError: weights are missing or damaged.
    """
    recipe = run.recipe
    found = [run.final(stage) for stage in recipe.stages]
    newest = newest_modules([manifest for manifest in found if manifest], recipe.stages)
    if not newest:
        raise UserError(
            "no stage of this run is finished",
            code="VT-USE-128",
            where=run.uri(),
            remedy="train at least one stage first",
        )
    refs = {name: ref for name, ref in newest.items() if name not in without}
    # What no stage trained is read from its source, so that a model is whole after any stage
    pretrained = recipe.model.pretrained - set(refs) - set(without)
    dtype = getattr(torch, recipe.model.dtype)
    modules = {
        **load_refs(
            recipe.model,
            refs,
            ctc_vocab_size=ctc_vocab_size,
            dtype=dtype,
            endpoint=recipe.storage.endpoint,
            mapped=True,
        ),
        **build_modules(recipe.model, pretrained, dtype=dtype),
    }
    return nn.ModuleDict({name: modules[name] for name in MODULES if name in modules}).eval()
