"""FSDP2: parameters, gradients and optimizer state sharded over ranks (``fully_shard``),
checkpoints by DCP.

With ``engine.shard: node`` the mesh has two levels: what is sharded is cut up among the ranks of a
node, and every node has a copy (HSDP). Gradients wait for the step's last micro-batch where they
can: all of them where few parameters train, else their sum over nodes.

Transformer blocks are sharding units (`models.activations.transformer_blocks`); everything else,
embeddings and output matrix included, belongs to the root and stays gathered from the start of
forward to the end of backward, because the loss reads the output matrix without calling its module.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from vita_train.errors import CheckpointError
from vita_train.models.activations import transformer_blocks
from vita_train.training.engines.base import (
    EngineContext,
    State,
    detached,
    fill_gradients,
    groups_of,
    kept_names,
    norms_by_owner,
    owners,
    parameter_types,
    phase_parameters,
    return_tuples,
    set_rates,
    trained_children,
)
from vita_train.training.objectives.base import LossOutput, Objective
from vita_train.training.parallel.distributed import sum_over_ranks

#: Most trained parameters whose gradients each rank keeps whole until the last micro-batch.
_KEPT_WHOLE = 100_000_000


class Fsdp2Engine:
    """Float32 shards; with bfloat16 they are gathered in bfloat16 and gradients are reduced in
    float32."""

    reads_own_files = True

    def __init__(self, objective: Objective, context: EngineContext) -> None:
        self.objective = objective
        self.world = context.world
        self.max_grad_norm = context.spec.optim.max_grad_norm
        self._copies = context.world.nodes if context.spec.engine.shard == "node" else 1
        shape = (self._copies, context.world.size // self._copies)
        mesh = init_device_mesh(
            context.world.device.type,
            shape if self._copies > 1 else shape[1:],
            mesh_dim_names=("copy", "shard") if self._copies > 1 else ("shard",),
        )
        policy = MixedPrecisionPolicy()
        if context.dtype is torch.bfloat16:
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        return_tuples(objective)
        types = parameter_types(objective, frozen=context.dtype, trained=torch.float32)
        cut = partial(shard_dimension, ranks=shape[1])
        # Last the root, which takes what no block before it has taken
        for unit in (*transformer_blocks(objective.model_modules()), objective):
            # Moved and cast unit by unit: a whole model in float32 is more than a GPU may hold
            for parameter in unit.parameters():
                if (held := types.pop(parameter, None)) is not None:
                    parameter.data = parameter.data.to(context.world.device).to(held)
            fully_shard(unit, mesh=mesh, mp_policy=policy, shard_placement_fn=cut)
        # Only now: sharding has replaced the parameters
        groups = groups_of(objective, context.spec, "main")
        self._parameters = phase_parameters(objective, "main")
        self._owners = owners(objective, self._parameters)
        trained = sum(parameter.numel() for parameter in self._parameters)
        self._sums_late = trained <= _KEPT_WHOLE
        self._optimizer = torch.optim.AdamW(
            groups,
            betas=context.spec.optim.betas,
            eps=context.spec.optim.eps,
            foreach=False,
            fused=context.world.device.type == "cuda",
        )
        self._norms: dict[str, float] = {}

    def forward_backward(self, batch: Any, phase: str, scale: float, *, last: bool) -> LossOutput:
        root = cast(FSDPModule, self.objective)
        root.set_is_last_backward(last)
        # Waiting saves the exchange of all micro-batches but the last. It costs a whole gradient on
        # each rank, too much where a large model trains.
        if self._sums_late:
            root.set_requires_gradient_sync(last)
        else:
            root.set_requires_all_reduce(last)
        output = LossOutput(*self.objective(batch, phase))
        # Gradients are averaged over ranks when they are reduced; the product of both factors is a
        # sum over ranks.
        (output.loss_sum * (scale * self.world.size)).backward()
        return detached(output)

    def evaluate(self, batch: Any) -> LossOutput:
        self.objective.eval()
        with torch.no_grad():
            output = LossOutput(*self.objective(batch))
        self.objective.train()
        return output

    def step(self, phase: str, factor: float) -> Tensor | float:
        fill_gradients(self._parameters)
        shards = [
            _local(parameter.grad) for parameter in self._parameters if parameter.grad is not None
        ]
        squares = torch.stack([shard.float().square().sum() for shard in shards])
        # Every node's copy of a shard has the same gradient, and each of them was summed up.
        totals = [total / self._copies for total in sum_over_ranks(squares.tolist())]
        # By parameter first: the same numbers give the norm of each module and of all
        self._norms = norms_by_owner(self._owners, [square**0.5 for square in totals])
        total = float(sum(totals)) ** 0.5
        if math.isfinite(total):
            if 0 < self.max_grad_norm < total + 1e-6:
                # The factor of torch's clip_grad_norm_, which does not take shards and copies apart
                torch._foreach_mul_(shards, self.max_grad_norm / (total + 1e-6))
            set_rates(self._optimizer.param_groups, factor)
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total

    def spare_skips(self) -> int:
        return 0

    def norms(self) -> dict[str, float]:
        return self._norms

    def save(self, directory: Path) -> None:
        sync_buffers(self.objective)
        # What every rank holds goes to rank 0's file, so that no rank has to read a third one's.
        planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
        dcp.save(self._state(), checkpoint_id=directory, planner=planner)

    def load(self, directory: Path) -> None:
        if not (directory / ".metadata").exists():
            raise CheckpointError(
                "the checkpoint was not written by engine fsdp2",
                code="VT-WEIGHTS-014",
                where=str(directory),
                remedy="continue with the engine that wrote it, or start the stage under a new run "
                "name",
            )
        # DCP reads into tensors that are there: this also tells it which part is this rank's
        state = self._state()
        dcp.load(state, checkpoint_id=directory)
        set_state_dict(
            self.objective,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(ignore_frozen_params=True, strict=False),
        )

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(
            self.objective, self._optimizer, options=StateDictOptions(ignore_frozen_params=True)
        )
        return {"model": model, "optimizer": optimizer}

    def gather(self) -> State | None:
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=True
        )
        full = get_model_state_dict(self.objective, options=options)
        return None if self.world.rank else split_by_child(full, self.objective)

    def close(self) -> None:
        return None


def shard_dimension(parameter: nn.Parameter, *, ranks: int) -> Shard | None:
    """Return the dimension along which a parameter is cut; none is the first.

    What has fewer rows than there are ranks is padded to a row for each before it is gathered: a
    table of shape (1, positions, width) would be sent once for every rank. It is cut along another
    dimension where one can be divided evenly.
    """
    if parameter.ndim < 2 or parameter.shape[0] >= ranks:
        return None
    return next(
        (Shard(at) for at, size in enumerate(parameter.shape) if at and size % ranks == 0), None
    )


def split_by_child(full: dict[str, Any], objective: Objective) -> State:
    """Return flat names ``child.tensor`` as child to tensors; what is frozen is left out, under all
    of its names."""
    kept = {name: kept_names(child) for name, child in trained_children(objective).items()}
    state: State = {name: {} for name in kept}
    for key, value in full.items():
        child, _, rest = key.partition(".")
        if rest in kept.get(child, ()):
            state[child][rest] = value
    return state


def sync_buffers(objective: nn.Module) -> None:
    """Give every rank rank 0's buffers, so that what is saved is what all ranks go on with."""
    if dist.get_world_size() > 1:
        for buffer in objective.buffers():
            dist.broadcast(buffer, src=0)


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
