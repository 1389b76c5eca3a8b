"""What a stage that ran out of memory was estimated to take, and what takes less:

    python -m vita_train.planning.advice RECIPE.yaml STAGE

prints one JSON object: bytes of each process, of the device or the machine's memory beside it, and
the next cheaper setting. A process of its own, so that who asks need not import torch.
"""

from __future__ import annotations

import json
import sys

import torch

from vita_train.errors import VitaError
from vita_train.planning.devices import plain_device
from vita_train.planning.estimate import estimate_stage
from vita_train.planning.fit import cheaper
from vita_train.planning.here import free_memory
from vita_train.recipe.load import load_recipe


def advice(recipe_path: str, stage: str) -> dict[str, int | str]:
    """Return the estimate of a stage on this machine and the next setting that takes less."""
    recipe = load_recipe(recipe_path)
    on_gpu = torch.cuda.is_available()
    memory = torch.cuda.mem_get_info()[1] if on_gpu else free_memory()
    device = plain_device(memory, gpu=on_gpu)
    estimate = estimate_stage(recipe, stage, device)
    return {
        "needed": estimate.memory.total if estimate else 0,
        "host": estimate.host.memory if estimate else 0,
        "memory": memory,
        "setting": cheaper(recipe, stage),
    }


def main() -> int:
    """Print the advice for the recipe and stage on the command line, or why there is none."""
    try:
        print(json.dumps(advice(*sys.argv[1:3])))
    except (VitaError, ValueError, RuntimeError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
