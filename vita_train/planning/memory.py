"""Memory that each stage of a recipe takes of the GPUs that it names:

    python -m vita_train.planning.memory RECIPE.yaml h100-80

prints one JSON object: bytes that training may take of the GPU, by stage bytes that it takes on
each, and by stage that does not fit what it lacks and what to set. A process of its own, so that
who asks need not import torch.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from vita_train.errors import VitaError
from vita_train.planning.devices import GIGA, Device, find_device, load_devices, plain_device
from vita_train.planning.estimate import estimate_stages
from vita_train.planning.fit import lacks, shortage
from vita_train.planning.plan import gpu_bytes, plan_recipe
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe


def named_device(name: str) -> Device:
    """Return the device of a name such as ``h100-80``; of one that plans do not know, its memory.

    Raises:
        RecipeError: the name does not end in a number.
    """
    return find_device(name, load_devices()) or plain_device(gpu_bytes(name))


def state_memory(recipe: Recipe) -> dict[str, int]:
    """Return bytes of weights, gradients and optimizer state on one device by stage, without what
    is offloaded: known at once, where activations take seconds a stage to trace."""
    needed = {}
    for plan in plan_recipe(recipe).stages:
        weights, gradients, optimizer = plan.state_parts(plan.zero, recipe.launch.ranks)
        engine = recipe.stages[plan.stage].engine
        if engine.kind == "deepspeed" and engine.zero and engine.offload != "none":
            optimizer = 0
            if engine.offload == "all" and engine.zero == 3:
                weights = 0
        needed[plan.stage] = weights + gradients + optimizer
    return needed


def _answer(recipe: Recipe, name: str) -> dict[str, Any]:
    """Hold every stage against a device. To look for the smallest change traces a stage many times:
    that is done for the first that does not fit, and for none where weights and optimizer state
    alone are too much."""
    device = named_device(name)
    search = f"vita-train plan {recipe.name} --gpu {name} finds the smallest change that fits"
    shard = (
        "shard more (engine deepspeed with zero 3, or fsdp2), offload, train adapters, or take "
        f"more GPUs: {search}"
    )
    lacking = {
        stage: {
            "problem": f"stage {stage} needs {needed / GIGA:,.1f} GB of "
            f"{device.usable / GIGA:,.1f} GB of each device, before activations",
            "remedy": shard,
        }
        for stage, needed in state_memory(recipe).items()
        if needed > device.usable
    }
    found = estimate_stages(recipe, () if lacking else recipe.stages, device)
    for stage, estimate in found.items():
        if problem := lacks(estimate, device):
            change = None if lacking else shortage(recipe, estimate, device)
            remedy = change.remedy if change else search
            lacking[stage] = {"problem": f"stage {stage} {problem}", "remedy": remedy}
    stages = {stage: estimate.memory.total for stage, estimate in found.items()}
    return {"gpu": device.usable, "stages": stages, "lacking": lacking}


def main() -> int:
    """Print the memory of the recipe and GPU named on the command line, or why there is none."""
    recipe = load_recipe(sys.argv[1])
    try:
        print(json.dumps(_answer(recipe, sys.argv[2])))
    except (VitaError, ValueError, RuntimeError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
