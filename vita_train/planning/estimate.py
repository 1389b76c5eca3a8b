"""What a stage takes of each device, of each node and of the store, and how long a step takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from vita_train.models.activations import Policy
from vita_train.planning.devices import GIGA, Device
from vita_train.planning.host import HostNeed, host_need
from vita_train.planning.plan import StagePlan, plan_stage
from vita_train.planning.roofline import flops_of, seconds_of
from vita_train.planning.step_trace import StepTrace, policies_of, trace_step
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import LaunchSpec, Recipe
from vita_train.recipe.stage import EngineSpec
from vita_train.training.checkpointing import MOST_LIVE, activation_room
from vita_train.training.engines.deepspeed import bucket_size

#: Hours of a stage whose steps only the data tell are those of a billion tokens.
BILLION = 1e9


@dataclass(frozen=True)
class Memory:
    """Bytes of one device, by what takes them."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    """What a micro-batch keeps and makes, the loss among it."""
    gathers: int = 0
    """Whole weights of which the device otherwise holds a part."""
    buckets: int = 0
    """Gradients on their way to other ranks."""
    fragmentation: int = 0
    """What the allocator holds and cannot use."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Estimate:
    """One stage on one kind of device."""

    stage: str
    plan: StagePlan
    memory: Memory
    step_s: float
    """Seconds of a step, exchange between ranks not counted."""
    exchange_s: float
    """Seconds that exchange takes if nothing is computed meanwhile."""
    flops: float
    """Of a rank's step, what is computed again among them."""
    tokens: float
    """Of a global batch; 0 where a row is one sample."""
    steps: float | None
    """Of the stage; none where only the data say."""
    host: HostNeed

    @property
    def seconds(self) -> float:
        """Of a step: exchange goes on beside computing where the engine can."""
        return max(self.step_s, self.exchange_s)

    @property
    def hours(self) -> float | None:
        """Of the stage, or of a billion tokens; none where neither is known."""
        steps = self.steps or (BILLION / self.tokens if self.tokens else None)
        return steps * self.seconds / 3600 if steps else None


def estimate_stage(recipe: Recipe, stage: str, device: Device) -> Estimate | None:
    """Estimate a stage on the recipe's own nodes and ranks.

    Returns:
        None where the objective cannot say how large its batches are.
    """
    spec, ranks = recipe.stages[stage], recipe.launch.ranks
    plan = plan_stage(recipe, stage)
    sharded = spec.engine.kind != "torch"
    traced = _trace(recipe, plan, sharded, device)
    if traced is None:
        return None
    memory = (_sharded if sharded else _whole)(recipe, plan, traced, device)
    parts = spec.batch.grad_accum
    kernels = seconds_of(traced.kernels, device) * parts
    update = seconds_of(traced.update, device)
    if sharded:  # every rank updates its own part: 16 bytes read and 12 written of each weight
        trained = sum(plan.trained.values())
        update = trained * 28 / ranks / (device.bandwidth * GIGA * device.fractions.bandwidth)
    return Estimate(
        stage,
        plan,
        memory,
        kernels + update,
        _exchange(recipe, plan, device),
        flops_of(traced.kernels) * parts,
        float(plan.seq_len * spec.batch.global_batch_size),
        float(spec.most_steps) if spec.most_steps else None,
        host_need(recipe, plan),
    )


def estimate_stages(recipe: Recipe, stages: Iterable[str], device: Device) -> dict[str, Estimate]:
    """Estimate several stages as `estimate_stage` does; those that it cannot are left out."""
    found = {stage: estimate_stage(recipe, stage, device) for stage in stages}
    return {stage: estimate for stage, estimate in found.items() if estimate is not None}


def _whole(recipe: Recipe, plan: StagePlan, traced: StepTrace, device: Device) -> Memory:
    """Return the memory of engine torch, which the trace has run itself."""
    parts = traced.parts
    trained = sum(plan.trained.values())
    memory = Memory(
        parts.get("weights", 0) - _quantization_saves(plan),
        parts.get("gradients", 0),
        parts.get("optimizer", 0),
        parts.get("activations", 0) + parts.get("batch", 0),
    )
    if recipe.launch.ranks > 1:
        # Gradients are views of the buckets; they all exist from the first step on.
        memory = replace(memory, gradients=max(memory.gradients, 4 * trained))
    return _fragmented(memory, traced, device)


def _sharded(recipe: Recipe, plan: StagePlan, traced: StepTrace, device: Device) -> Memory:
    """Return the memory of an engine that cuts up what it holds."""
    spec = recipe.stages[plan.stage]
    ranks, zero = recipe.launch.ranks, plan.zero
    share = recipe.launch.nproc if spec.engine.shard == "node" else ranks
    weights, gradients, optimizer = plan.state_parts(zero, share)
    gathers = buckets = 0
    total, trained = sum(plan.modules.values()), sum(plan.trained.values())
    if spec.engine.kind == "fsdp2":
        # Masters and moments in float32, what is frozen in the compute type, gradients in float32.
        frozen = (total - trained) * plan.compute_bytes
        weights = (4 * trained + frozen) // share
        gradients, optimizer = 4 * trained // share, 8 * trained // share
        root, block = _root_and_block(recipe.model, plan)
        gathers = (root + 2 * block) * plan.compute_bytes
        buckets = 2 * block * 4 if trained else 0
    else:
        if zero == 3:
            gathers = min(total, MOST_LIVE) * plan.compute_bytes
        if zero:
            buckets = bucket_size(trained) * plan.compute_bytes * (2 if device.caches else 1)
        if spec.engine.offload != "none" and zero:
            optimizer = 0
            if spec.engine.offload == "all" and zero == 3:
                weights = 0
    activations = traced.parts.get("activations", 0) + traced.parts.get("batch", 0)
    memory = Memory(weights, gradients, optimizer, activations, gathers, buckets)
    return _fragmented(memory, traced, device)


def _fragmented(memory: Memory, traced: StepTrace, device: Device) -> Memory:
    if not device.caches:
        return memory
    return replace(memory, fragmentation=max(0, traced.reserved - traced.peak))


def _root_and_block(model: ModelSpec, plan: StagePlan) -> tuple[int, int]:
    """Return the parameters outside of blocks, and those of the largest block."""
    from vita_train.models.activations import transformer_blocks
    from vita_train.planning.parameters import meta_modules

    modules = meta_modules(model, plan.modules)
    sizes = [
        sum(parameter.numel() for parameter in block.parameters())
        for block in transformer_blocks(modules)
    ]
    return max(0, sum(plan.modules.values()) - sum(sizes)), max(sizes, default=0)


def _quantization_saves(plan: StagePlan) -> int:
    return plan.quantized * plan.compute_bytes - plan.quantized_bytes


def _exchange(recipe: Recipe, plan: StagePlan, device: Device) -> float:
    """Return the seconds that a rank's bytes take on the slowest link they pass."""
    spec, launch = recipe.stages[plan.stage], recipe.launch
    ranks, parts = launch.ranks, spec.batch.grad_accum
    if ranks == 1:
        return 0.0
    total, trained = sum(plan.modules.values()), sum(plan.trained.values())
    width, share = plan.compute_bytes, (ranks - 1) / ranks
    link = device.link(between_nodes=launch.nodes > 1)
    near = device.link(between_nodes=False)
    if spec.engine.kind == "torch":
        return 2 * share * 4 * trained / link
    if plan.zero < 3:  # gradients to their owners, weights back
        times = parts if plan.zero == 2 else 1
        return share * width * trained * (times + 1) / link
    gathered = 2 * parts * share * width * total
    reduced = share * trained * (4 if spec.engine.kind == "fsdp2" else width) * parts
    if spec.engine.shard == "node":
        between = 2 * 4 * trained / launch.nproc if launch.nodes > 1 else 0
        return (gathered + reduced) / near + between / link
    return (gathered + reduced) / link


def _trace(recipe: Recipe, plan: StagePlan, sharded: bool, device: Device) -> StepTrace | None:
    """Trace a step, or take the trace of another estimate that differs in nothing that it shows."""
    spec = recipe.stages[plan.stage]
    policies = policies_of(recipe, plan.stage, plan.rows, free_bytes(recipe, plan.stage, device))
    # Nor ranks nor the kind of sharding change what one rank runs: they are left out of the key.
    alike = spec.model_copy(
        update={
            "quantize": None,
            "engine": EngineSpec(dtype=spec.engine.dtype),
            "batch": spec.batch.model_copy(
                update={"grad_accum": min(2, spec.batch.grad_accum), "global_batch_size": plan.rows}
            ),
        }
    )
    same = recipe.model_copy(
        update={"launch": LaunchSpec(), "stages": {**recipe.stages, plan.stage: alike}}
    )
    kept = tuple(sorted(policies.items()))
    return _traced(same.model_dump_json(), plan.stage, plan.rows, kept, sharded, device.rounding)


@lru_cache(maxsize=64)
def _traced(
    text: str,
    stage: str,
    rows: int,
    policies: tuple[tuple[str, Policy], ...],
    sharded: bool,
    rounding: int,
) -> StepTrace | None:
    return trace_step(
        Recipe.model_validate_json(text),
        stage,
        rows=rows,
        policies=dict(policies),
        sharded=sharded,
        rounding=rounding,
    )


def free_bytes(recipe: Recipe, stage: str, device: Device) -> float:
    """Return what ``checkpoint_activations: auto`` would find free."""
    if not device.caches:
        return float("inf")
    launch, counts = recipe.launch, plan_stage(recipe, stage).modules
    memory = device.memory * GIGA
    return activation_room(memory, counts, recipe.stages[stage], launch.ranks, launch.nproc)
