"""Memory that each stage of a recipe takes of the GPUs that it names:

    python -m vita_train.planning.memory RECIPE.yaml h100-80

prints one JSON object: bytes of the GPU, and by stage bytes of weights, gradients and optimizer
state on each. A process of its own, so that who asks need not import torch.
"""

from __future__ import annotations

import json
import sys

from vita_train.errors import VitaError
from vita_train.planning.plan import gpu_bytes, plan_recipe
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe


def stage_memory(recipe: Recipe) -> dict[str, int]:
    """Return bytes on one GPU by stage, on the recipe's own nodes, ranks and sharding, without
    activations and what is offloaded."""
    ranks = recipe.launch.ranks
    needed = {}
    for plan in plan_recipe(recipe).stages:
        weights, gradients, optimizer = plan.state_parts(plan.zero, ranks)
        engine = recipe.stages[plan.stage].engine
        if engine.kind == "deepspeed" and engine.zero and engine.offload != "none":
            optimizer = 0
            if engine.offload == "all" and engine.zero == 3:
                weights = 0
        needed[plan.stage] = weights + gradients + optimizer
    return needed


def main() -> int:
    """Print the memory of the recipe and GPU named on the command line, or why there is none."""
    recipe = load_recipe(sys.argv[1])
    try:
        print(json.dumps({"gpu": gpu_bytes(sys.argv[2]), "stages": stage_memory(recipe)}))
    except (VitaError, ValueError, RuntimeError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
