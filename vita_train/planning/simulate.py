"""One step of one rank among many, on one processor and without weights: torch's fake process group
stands in for the others, tensors have shapes and no contents.

What is exchanged is what engines ask for: FSDP2 runs as it is. DistributedDataParallel and
DeepSpeed cannot run on tensors without contents; in their place stand the exchanges that they
document, made through the same process group. ZeRO-3 exchanges block by block as FSDP2 does, frozen
weights among them, and reduces gradients in the compute type; ZeRO-1 and 2 reduce gradients to
their owners bucket by bucket, after the last or after every micro-batch, and gather the weights
that these have updated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from vita_train.models.activations import transformer_blocks
from vita_train.planning.devices import Device
from vita_train.planning.estimate import free_bytes
from vita_train.planning.roofline import seconds_of
from vita_train.planning.step_trace import build_objective, policies_of
from vita_train.planning.trace import Kernel, Trace
from vita_train.recipe.schema import Recipe
from vita_train.training.batches import LoadedStep
from vita_train.training.engines.base import (
    EngineContext,
    cast_parameters,
    compute_dtype,
    phase_parameters,
    return_tuples,
)
from vita_train.training.engines.deepspeed import bucket_size
from vita_train.training.engines.fsdp2 import Fsdp2Engine, shard_dimension
from vita_train.training.global_step import agree
from vita_train.training.objectives.base import Objective
from vita_train.training.parallel.distributed import World

#: Bytes of a bucket of DistributedDataParallel, its default.
_DDP_BUCKET = 25 << 20


@dataclass(frozen=True)
class Call:
    """One kind of exchange."""

    name: str
    """all_gather, reduce_scatter, all_reduce or broadcast."""
    ranks: int
    """That take part."""
    between_nodes: bool
    """Whether some of them are on other nodes."""


@dataclass(frozen=True)
class Traffic:
    """Calls of one kind in a step."""

    calls: int
    sent: float
    """Bytes that a rank sends in them, by the algorithms that move least: rings."""


@dataclass(frozen=True)
class Simulation:
    """A step of rank 0."""

    stage: str
    ranks: int
    memory: int
    """Bytes held at most, without the optimizer's state where DeepSpeed keeps it."""
    traffic: dict[Call, Traffic]
    compute_s: float
    exchange_s: float

    @property
    def sent(self) -> float:
        """Bytes that the rank sends in a step."""
        return sum(traffic.sent for traffic in self.traffic.values())

    @property
    def calls(self) -> int:
        """Exchanges of a step."""
        return sum(traffic.calls for traffic in self.traffic.values())

    @property
    def step_s(self) -> float:
        """Seconds of a step if exchange goes on beside computing."""
        return max(self.compute_s, self.exchange_s)


def simulate_stage(recipe: Recipe, stage: str, device: Device | None = None) -> Simulation | None:
    """Run one step of rank 0 on the recipe's own nodes and ranks.

    Args:
        recipe: resolved.
        stage: which.
        device: whose speed and links give the seconds; none leaves them at 0.

    Returns:
        None where the objective cannot say how large its batches are.
    """
    spec, launch = recipe.stages[stage], recipe.launch
    recipe = recipe.model_copy(
        update={
            "stages": {**recipe.stages, stage: spec.model_copy(update={"quantize": None})},
        }
    )
    parts = spec.batch.grad_accum
    rows = spec.batch.micro_rows(launch.ranks)
    world = World(0, launch.ranks, 0, torch.device("cpu"), launch.nproc)
    free = free_bytes(recipe, stage, device) if device else float("inf")
    trace = _Exchanges(launch.nproc)
    with _fake_group(launch.ranks), trace:
        with trace.counted_as("weights"):
            policies = policies_of(recipe, stage, rows, free)
            objective = build_objective(recipe, stage, rows=rows, policies=policies, world=world)
            dtype = compute_dtype(recipe, spec)
            engine = _engine(objective, EngineContext(spec, world, dtype))
        with trace.counted_as("batch"):
            batch = objective.largest_batch(rows)
        if batch is None:
            return None
        trace.begin()
        trace.ledger.kernels.clear()
        trace.calls.clear()
        agree(objective, LoadedStep([batch] * parts, []), stop=False)
        for phase in objective.phases:
            for number in range(parts):
                engine.forward_backward(batch, phase, 1.0, last=number == parts - 1)
            engine.step(phase, 1.0)
    kernels: dict[Kernel, int] = dict(trace.ledger.kernels)
    traffic = {
        call: Traffic(count, _sent(call, trace.sizes[call])) for call, count in trace.calls.items()
    }
    return Simulation(
        stage,
        launch.ranks,
        trace.ledger.peak,
        traffic,
        seconds_of(kernels, device) if device else 0.0,
        _seconds(traffic, device) if device else 0.0,
    )


class _Exchanges(Trace):
    """A trace that notes collective calls."""

    def __init__(self, node_size: int) -> None:
        super().__init__(rounding=512)
        self.calls: Counter[Call] = Counter()
        self.sizes: Counter[Call] = Counter()
        """Bytes of what each kind of call makes or takes whole, whichever is larger."""
        self._node_size = node_size

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.namespace == "c10d":
            self._note(func, args)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _note(self, func: Any, args: tuple[Any, ...]) -> None:
        name = func._overloadpacket.__name__.strip("_").replace("_base", "")
        kind = _NAMES.get(name)
        if kind is None:
            return
        members = _members(args)
        nodes = {rank // self._node_size for rank in members}
        call = Call(kind, len(members), len(nodes) > 1)
        self.calls[call] += 1
        self.sizes[call] += max(_bytes(argument) for argument in args)


_NAMES = {
    "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "allreduce": "all_reduce",
    "broadcast": "broadcast",
}


def _members(args: tuple[Any, ...]) -> list[int]:
    for argument in args:
        if isinstance(argument, torch.ScriptObject) and "ProcessGroup" in str(argument._type()):
            return dist.get_process_group_ranks(dist.ProcessGroup.unbox(argument))
    return list(range(dist.get_world_size()))


def _bytes(argument: Any) -> int:
    if isinstance(argument, Tensor):
        return argument.numel() * argument.element_size()
    if isinstance(argument, list | tuple):
        return sum(_bytes(inner) for inner in argument)
    return 0


def _sent(call: Call, size: int) -> float:
    """Return the bytes that a rank sends: of a whole of ``size`` bytes each of n ranks passes on
    (n - 1) / n, and twice that where it is reduced and gathered."""
    share = (call.ranks - 1) / call.ranks
    return size * share * (2 if call.name == "all_reduce" else 1)


def _seconds(traffic: dict[Call, Traffic], device: Device) -> float:
    """Return the seconds that exchanges take one after the other."""
    total = 0.0
    for call, found in traffic.items():
        total += found.sent / device.link(between_nodes=call.between_nodes)
        total += found.calls * device.launch * max(1, math.ceil(math.log2(call.ranks)))
    return total


@contextmanager
def _fake_group(ranks: int) -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _engine(objective: Objective, context: EngineContext) -> Any:
    if context.spec.engine.kind == "fsdp2":
        return Fsdp2Engine(objective, context)
    if context.spec.engine.kind == "deepspeed" and context.spec.engine.zero == 3:
        return _BlockByBlock(objective, context)
    return _Whole(objective, context)


class _Whole:
    """Weights whole on every rank: DistributedDataParallel, and ZeRO-0 to 2."""

    def __init__(self, objective: Objective, context: EngineContext) -> None:
        spec = context.spec.engine
        self.objective, self.ranks = objective, context.world.size
        self.zero = spec.zero if spec.kind == "deepspeed" else 0
        trained = torch.float32 if spec.kind == "torch" else context.dtype
        cast_parameters(objective, frozen=context.dtype, trained=trained)
        self.dtype, self.half = trained, context.dtype
        self._autocast = spec.kind == "torch" and context.dtype is not torch.float32
        self._trained = {phase: phase_parameters(objective, phase) for phase in objective.phases}

    def forward_backward(self, batch: Any, phase: str, scale: float, *, last: bool) -> None:
        """Run one micro-batch, and exchange gradients where the engine does."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            output = self.objective(batch, phase)
        (output.loss_sum * scale).backward()
        if last or self.zero == 2:
            self._exchange(phase)

    def step(self, phase: str, factor: float) -> None:
        """Gather what other ranks have updated."""
        if self.zero:
            for size in self._buckets(phase):
                part = torch.empty(-(-size // self.ranks), dtype=self.dtype)
                whole = torch.empty(part.numel() * self.ranks, dtype=self.dtype)
                dist.all_gather_into_tensor(whole, part)
        for parameter in self._trained[phase]:
            parameter.grad = None

    def _exchange(self, phase: str) -> None:
        for size in self._buckets(phase):
            if self.zero:
                part = torch.empty(-(-size // self.ranks), dtype=self.dtype)
                whole = torch.empty(part.numel() * self.ranks, dtype=self.dtype)
                dist.reduce_scatter_tensor(part, whole)
            else:
                dist.all_reduce(torch.empty(size, dtype=self.dtype))

    def _buckets(self, phase: str) -> list[int]:
        total = sum(parameter.numel() for parameter in self._trained[phase])
        most = bucket_size(total) if self.zero else _DDP_BUCKET // 4
        full, rest = divmod(total, most)
        return [most] * full + ([rest] if rest else [])


class _BlockByBlock:
    """ZeRO-3: every block's weights are gathered before it runs, forward and backward."""

    def __init__(self, objective: Objective, context: EngineContext) -> None:
        world, spec = context.world, context.spec.engine
        inner = world.node_size if spec.shard == "node" and world.nodes > 1 else world.size
        self.objective, self.world = objective, world
        cast_parameters(objective, frozen=context.dtype, trained=context.dtype)
        return_tuples(objective)
        names = ("copy", "shard") if inner < world.size else ("shard",)
        shape = (world.size // inner, inner) if inner < world.size else (world.size,)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)
        # DeepSpeed cuts flat buffers, so no shape makes it send padding.
        cut = partial(shard_dimension, ranks=inner)
        for block in transformer_blocks(objective.model_modules()):
            fully_shard(block, mesh=mesh, mp_policy=policy, shard_placement_fn=cut)
        fully_shard(objective, mesh=mesh, mp_policy=policy, shard_placement_fn=cut)

    def forward_backward(self, batch: Any, phase: str, scale: float, *, last: bool) -> None:
        """Run one micro-batch; gradients are reduced in each."""
        assert isinstance(self.objective, FSDPModule)
        self.objective.set_is_last_backward(last)
        output = self.objective(batch, phase)
        (output[0] * scale).backward()

    def step(self, phase: str, factor: float) -> None:
        """Let gradients go: the optimizer works on what each rank owns."""
        for parameter in self.objective.parameters():
            parameter.grad = None
