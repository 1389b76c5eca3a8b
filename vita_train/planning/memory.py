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
from vita_train.planning.devices import Device, find_device, load_devices, plain_device
from vita_train.planning.estimate import estimate_stage
from vita_train.planning.fit import shortage
from vita_train.planning.plan import gpu_bytes
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe


def named_device(name: str) -> Device:
    """Return the device of a name such as ``h100-80``; of one that plans do not know, its memory.

    Raises:
        RecipeError: the name does not end in a number.
    """
    return find_device(name, load_devices()) or plain_device(gpu_bytes(name))


def stage_memory(recipe: Recipe, device: Device) -> dict[str, int]:
    """Return bytes on one device by stage, at full micro-batches on the recipe's own nodes, ranks
    and sharding; stages whose objective cannot say how large its batches are left out."""
    return {
        stage: estimate.memory.total
        for stage in recipe.stages
        if (estimate := estimate_stage(recipe, stage, device))
    }


def _answer(recipe: Recipe, name: str) -> dict[str, Any]:
    device = named_device(name)
    stages, lacking = {}, {}
    for stage in recipe.stages:
        estimate = estimate_stage(recipe, stage, device)
        if estimate is None:
            continue
        stages[stage] = estimate.memory.total
        if found := shortage(recipe, estimate, device):
            lacking[stage] = {"problem": found.problem, "remedy": found.remedy}
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
