"""Memory of the GPUs that a recipe will run on, by its own nodes, ranks and sharding."""

from __future__ import annotations

from vita_train.console import Found
from vita_train.errors import UserError
from vita_train.preflight.subprocesses import RefusedError, ask
from vita_train.recipe.schema import Recipe

#: Share of what training may take of a GPU above which an estimate that is a little too low ends
#: the stage.
_TIGHT = 0.9


def check_memory(recipe: Recipe, gpu: str) -> Found:
    """Hold every stage's whole memory, as `plan` estimates it, against a GPU.

    Args:
        recipe: resolved.
        gpu: its name, with its memory in GB at the end: ``h100-80``.

    Raises:
        UserError: a stage does not fit, with the smallest change that makes it fit; or the GPU's
            name does not end in a number.
    """
    try:
        answer = ask("vita_train.planning.memory", recipe, gpu)
    except RefusedError as error:
        raise UserError(
            f"memory cannot be planned: {error}",
            code="VT-USE-212",
            where="--gpu",
            remedy="give a name that ends with its memory in GB, such as h100-80",
        ) from None
    usable, stages = int(answer["gpu"]), {str(k): int(v) for k, v in answer["stages"].items()}
    on = f"{recipe.launch.nodes} x {recipe.launch.nproc} {gpu}"
    if lacking := answer["lacking"]:
        raise UserError(
            f"on {on}: " + "; ".join(found["problem"] for found in lacking.values()),
            code="VT-USE-213",
            where=f"stages.{next(iter(lacking))}",
            remedy="; ".join(dict.fromkeys(found["remedy"] for found in lacking.values())),
        )
    if not stages:
        return Found("not estimated: no objective says how large its batches are")
    tight = tuple(
        f"stage {stage} leaves {(usable - needed) / 1e9:.1f} GB of each GPU; should it run out, "
        "checkpoint_activations, a smaller micro-batch (grad_accum) or more sharding make room"
        for stage, needed in stages.items()
        if needed > _TIGHT * usable
    )
    stage, needed = max(stages.items(), key=lambda item: item[1])
    return Found(
        f"at most {needed / 1e9:.1f} GB of {usable / 1e9:.1f} GB on each of {on}, at stage {stage}",
        tight,
    )
