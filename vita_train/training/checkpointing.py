"""Which modules of a stage compute their activations again."""

from __future__ import annotations

import math

import torch
from torch import nn

from vita_train.models.activations import choose_policies, enable_checkpointing
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.stage import StageSpec
from vita_train.training.parallel.distributed import World

#: Share of the memory beside the weights that a frozen language model's activations may take; the
#: rest is for towers, the loss and what trains.
SHARE = 0.7


def checkpoint_as_asked(
    modules: nn.ModuleDict, model: ModelSpec, spec: StageSpec, world: World
) -> None:
    """Checkpoint blocks as ``engine.checkpoint_activations`` says. Modules are not on the device
    yet."""
    asked = spec.engine.checkpoint_activations
    if asked == "auto":
        batch = spec.batch
        rows = batch.micro_rows(world.size)
        policies = choose_policies(
            model, spec.trainable, rows * batch.seq_len, _free_bytes(modules, world)
        )
        enable_checkpointing(modules, policies)
    elif asked == "selective":
        enable_checkpointing(modules, dict.fromkeys(modules, "selective"))
    elif asked:
        enable_checkpointing(modules)


def _free_bytes(modules: nn.ModuleDict, world: World) -> float:
    if world.device.type != "cuda":
        return math.inf
    # At two bytes, as the compute type has; modules are still on the processor
    weights = sum(parameter.numel() for parameter in modules.parameters()) * 2
    return SHARE * (torch.cuda.mem_get_info(world.device)[0] - weights)
