"""Which modules of a stage compute their activations again."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from vita_train.models.activations import choose_policies, enable_checkpointing
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.stage import StageSpec
from vita_train.training.parallel.distributed import World

#: Share of the memory beside what a stage holds that a language model's activations may take; the
#: rest is for towers and the loss.
SHARE = 0.7
#: Bytes of a trained weight: float32 with gradient and two moments, and the copy that is computed
#: with; or, cut up, the copy and its gradient with float32 weight and moments.
_WHOLE, _CUT = 18, 16
#: Bytes of a frozen weight in the compute type, and of one that is gathered.
_COMPUTED = 2
#: Weights that ZeRO-3 keeps gathered at a time (stage3_max_live_parameters, its default).
MOST_LIVE = 1_000_000_000


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
            model, spec.trainable, rows * batch.seq_len, _free_bytes(modules, spec, world)
        )
        enable_checkpointing(modules, policies)
    elif asked == "selective":
        enable_checkpointing(modules, dict.fromkeys(modules, "selective"))
    elif asked:
        enable_checkpointing(modules)


def _free_bytes(modules: nn.ModuleDict, spec: StageSpec, world: World) -> float:
    if world.device.type != "cuda":
        return math.inf
    counts = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in modules.items()
    }
    memory = torch.cuda.mem_get_info(world.device)[0]
    return activation_room(memory, counts, spec, world.size, world.node_size or world.size)


def activation_room(
    memory: float, counts: Mapping[str, int], spec: StageSpec, ranks: int, node_ranks: int
) -> float:
    """Return the bytes of a device that a language model's activations may take beside what a stage
    holds.

    Args:
        memory: of the device, bytes.
        counts: parameters by module.
        spec: the stage. Adapters, offloading and quantised weights hold less than is counted here.
        ranks: how many there are.
        node_ranks: ranks of a node.
    """
    engine = spec.engine
    total = sum(counts.values())
    trained = sum(count for name, count in counts.items() if name in spec.trainable)
    shards = node_ranks if engine.shard == "node" else ranks
    held: float = _COMPUTED * (total - trained)
    if engine.kind == "torch":
        held += _WHOLE * trained
    elif engine.kind == "fsdp2" or engine.zero == 3:
        held = (held + _CUT * trained) / shards + _COMPUTED * min(total, MOST_LIVE)
    else:
        # Not cut up are of ZeRO-1 weights and gradients, of ZeRO-2 weights
        whole = {0: _CUT, 1: 2 * _COMPUTED, 2: _COMPUTED}[engine.zero]
        held += whole * trained + (_CUT - whole) * trained / shards
    return SHARE * (memory - held)
