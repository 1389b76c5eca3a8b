"""One optimizer step of a stage without weights or data: what it holds, computes and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vita_train.models.activations import Policy, choose_policies, enable_checkpointing
from vita_train.models.build import build_modules
from vita_train.planning.assumed import CTC_VOCAB_SIZE, assumed_corpus
from vita_train.planning.fragments import CachingAllocator
from vita_train.planning.trace import Kernel, Trace
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec
from vita_train.training.adapters import prepare_adapters
from vita_train.training.engines.base import EngineContext, cast_parameters, compute_dtype
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives import objective_class
from vita_train.training.objectives.base import LossOutput, Objective, StageContext
from vita_train.training.parallel.distributed import World

_CPU = torch.device("cpu")
#: Micro-batches that are enough to see: the first without gradients in memory, the second with.
_MOST_PARTS = 2


@dataclass(frozen=True)
class StepTrace:
    """What one step of one rank comes to, without sharding."""

    peak: int
    """Bytes held at most in the step of a stage under way."""
    reserved: int
    """Bytes that an allocator holds which keeps what it has been given."""
    parts: dict[str, int]
    """The same by weights, gradients, optimizer, batch and activations, the last of which is all
    that comes and goes, the loss and the optimizer's own intermediates among them."""
    kernels: Mapping[Kernel, int]
    """Calls of one micro-batch, forward and backward, with how often."""
    update: Mapping[Kernel, int]
    """Calls of the optimizer's step."""


def trace_step(
    recipe: Recipe,
    stage: str,
    *,
    rows: int,
    policies: Mapping[str, Policy] | None = None,
    sharded: bool = False,
    rounding: int = 64,
) -> StepTrace | None:
    """Run a step of full micro-batches as one rank.

    Args:
        recipe: resolved.
        stage: which.
        rows: of a micro-batch.
        policies: what modules compute again; none takes what the recipe says.
        sharded: as engines do that cut up gradients: weights in the compute type, and gradients
            gone as soon as they are there. What is sharded is counted whole.
        rounding: of the allocator, in bytes.

    Returns:
        None where the objective cannot say how large its batches are.
    """
    trace = Trace(rounding)
    spec = recipe.stages[stage]
    with trace:
        with trace.counted_as("weights"):
            objective = build_objective(recipe, stage, rows=rows, policies=policies)
            dtype = compute_dtype(recipe, spec)
            engine = _engine(objective, spec, dtype, sharded=sharded)
        with trace.counted_as("batch"):
            batch = objective.largest_batch(rows)
        if batch is None:
            return None
        trace.begin()
        ledger = trace.ledger
        _label_gradients(objective, trace, drop=sharded)
        highest, parts = 0, {}
        kernels: Counter[Kernel] = Counter()
        update: Counter[Kernel] = Counter()
        for phase in objective.phases:
            for _ in range(1 if sharded else min(_MOST_PARTS, spec.batch.grad_accum)):
                ledger.kernels.clear()
                ledger.forget_peak()
                engine.forward_backward(batch, phase, 1.0, last=True)
            kernels.update(ledger.kernels)
            before, at = ledger.peak, dict(ledger.at_peak)
            ledger.kernels.clear()
            ledger.forget_peak()
            held = ledger.kinds.get("optimizer", 0)
            with trace.counted_as("optimizer"):
                engine.step(phase, 1.0)
            update.update(ledger.kernels)
            state = ledger.kinds.get("optimizer", 0) - held
            # Later steps find the optimizer's state already there.
            at["optimizer"] = at.get("optimizer", 0) + state
            for size, found in ((before + state, at), (ledger.peak, dict(ledger.at_peak))):
                if size > highest:
                    highest, parts = size, found
        state_bytes = ledger.kinds.get("optimizer", 0)
    spare = parts.get("optimizer", 0) - state_bytes
    if spare > 0:  # what the update itself makes and drops
        parts["optimizer"] -= spare
        parts["activations"] = parts.get("activations", 0) + spare
    reserved = CachingAllocator().play(ledger.requests)
    return StepTrace(highest, max(reserved, highest), parts, kernels, update)


def build_objective(
    recipe: Recipe,
    stage: str,
    *,
    rows: int,
    policies: Mapping[str, Policy] | None = None,
    world: World | None = None,
) -> Objective:
    """Return a stage's objective as it is before an engine takes it; under a `Trace` without
    weights.

    Args:
        recipe: resolved.
        stage: which.
        rows: of a micro-batch, by which ``auto`` chooses what is computed again.
        policies: what modules compute again; none takes what the recipe says.
        world: the rank; one by itself when not given.
    """
    spec = recipe.stages[stage]
    world = world or World(0, 1, 0, _CPU)
    dtype = compute_dtype(recipe, spec)
    corpus = assumed_corpus(recipe, stage)
    kind = objective_class(spec.objective)
    modules = build_modules(
        recipe.model,
        kind.modules_used(spec, corpus),
        ctc_vocab_size=CTC_VOCAB_SIZE,
        empty=True,
    )
    where = f"stages.{stage}"
    prepare_adapters(modules, spec, seed=recipe.seed, device=_CPU, dtype=dtype, where=where)
    if policies is None:
        policies = policies_of(recipe, stage, rows)
    enable_checkpointing(modules, policies)
    context = StageContext(
        recipe, stage, spec, corpus, _CPU, dtype, world.rank, world.size, recipe.seed
    )
    objective = kind(context, modules)
    apply_trainable(objective, spec.trainable, where=f"{where}.trainable")
    return objective


def policies_of(
    recipe: Recipe, stage: str, rows: int, free: float = float("inf")
) -> dict[str, Policy]:
    """Return which modules of a stage compute activations again, and how.

    Args:
        recipe: resolved.
        stage: which.
        rows: of a micro-batch.
        free: bytes that activations may take, by which ``auto`` chooses.
    """
    spec = recipe.stages[stage]
    asked = spec.engine.checkpoint_activations
    if asked == "auto":
        return choose_policies(recipe.model, spec.trainable, rows * spec.batch.seq_len, free)
    policy: Policy = "selective" if asked == "selective" else "full" if asked else "off"
    return dict.fromkeys(("llm", "vision", "audio_encoder", "speech_decoder"), policy)


def _engine(objective: Objective, spec: StageSpec, dtype: torch.dtype, *, sharded: bool) -> Any:
    if sharded:
        return _Bare(objective, dtype)
    from vita_train.training.engines.torch import TorchEngine

    return TorchEngine(objective, EngineContext(spec, World(0, 1, 0, _CPU), dtype))


class _Bare:
    """Forward and backward as sharding engines run them, with weights in the compute type and
    nothing around."""

    def __init__(self, objective: Objective, dtype: torch.dtype) -> None:
        cast_parameters(objective, frozen=dtype, trained=dtype)
        self.objective = objective

    def forward_backward(self, batch: Any, phase: str, scale: float, *, last: bool) -> None:
        """Run one micro-batch."""
        output: LossOutput = self.objective(batch, phase)
        (output.loss_sum * scale).backward()

    def step(self, phase: str, factor: float) -> None:
        """Do nothing: the state is elsewhere."""


def _label_gradients(objective: nn.Module, trace: Trace, *, drop: bool) -> None:
    """Count gradients as such from when they are there, or let go of them at once."""

    def arrived(parameter: Tensor) -> None:
        if drop:
            parameter.grad = None
        elif parameter.grad is not None:
            trace.relabel(parameter.grad, "gradients")

    for parameter in objective.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(arrived)
