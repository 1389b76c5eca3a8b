"""Memory of the GPUs that a recipe will run on, by its own nodes, ranks and sharding."""

from __future__ import annotations

from vita_train.console import Found
from vita_train.errors import UserError
from vita_train.preflight.subprocesses import RefusedError, ask
from vita_train.recipe.schema import Recipe

#: Share of a GPU's memory above which hardly anything is left for activations.
_TIGHT = 0.8


def check_memory(recipe: Recipe, gpu: str) -> Found:
    """Hold weights, gradients and optimizer state of every stage against a GPU.

    Args:
        recipe: resolved.
        gpu: its name, with its memory in GB at the end: ``h100-80``.

    Raises:
        UserError: a stage does not fit, or the GPU's name does not end in a number.
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
    memory, stages = int(answer["gpu"]), {str(k): int(v) for k, v in answer["stages"].items()}
    ranks = recipe.launch.ranks
    on = f"{recipe.launch.nodes} x {recipe.launch.nproc} {gpu}"
    over = {stage: needed for stage, needed in stages.items() if needed > memory}
    if over:
        raise UserError(
            "; ".join(
                f"stage {stage} needs {needed / 1e9:.1f} GB on each of {on}, before activations"
                for stage, needed in over.items()
            ),
            code="VT-USE-213",
            where=f"stages.{next(iter(over))}.engine",
            remedy="shard more (engine deepspeed with zero 3, or fsdp2), offload, train adapters, "
            f"or take more than {ranks} GPUs",
        )
    tight = tuple(
        f"stage {stage} leaves {(memory - needed) / 1e9:.1f} GB of each GPU for activations; "
        "checkpoint_activations, a smaller micro-batch (grad_accum) or more sharding make room"
        for stage, needed in stages.items()
        if needed > _TIGHT * memory
    )
    stage, needed = max(stages.items(), key=lambda item: item[1])
    return Found(
        f"at most {needed / 1e9:.1f} GB of {memory / 1e9:.0f} GB on each of {on}, before "
        f"activations, at stage {stage}",
        tight,
    )
