"""The training loop: steps, exact normalisation, logging, dev loss, checkpoints, orderly stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from vita_train.console import warn
from vita_train.data.loading.batch import MicroBatch
from vita_train.data.loading.unreadable import Unreadable
from vita_train.errors import DataError, StoppedError, VitaError
from vita_train.evaluation.gates import OBJECTIVES_OWN
from vita_train.recipe.stage import StageSpec
from vita_train.training.batches import BatchLoader, BatchOrder, LoadedStep
from vita_train.training.counters import Counters
from vita_train.training.engines.base import Engine, not_finite
from vita_train.training.flat_loss import FlatLoss
from vita_train.training.global_step import GlobalStep, MetricSums, agree
from vita_train.training.objectives.base import Objective
from vita_train.training.observability.run_log import RunLog
from vita_train.training.observability.samples import id_sum
from vita_train.training.observability.telemetry import (
    MetricsSnapshot,
    Throughput,
    machine_usage,
    peak_memory,
)
from vita_train.training.parallel.distributed import World, gather_json, peer_errors, sum_over_ranks
from vita_train.training.resume import Checkpoints, seed_step
from vita_train.training.step_plan import StepPlan
from vita_train.training.watchdog import Watchdog

#: Longer stages log every tenth step: a line costs a sum over ranks.
_EVERY_STEP_UP_TO = 2000
#: Steps in a row whose gradients may be not finite.
_MOST_SKIPPED = 5


@dataclass
class Loop:
    """The parts one rank trains with."""

    objective: Objective
    engine: Engine
    spec: StageSpec
    world: World
    seed: int
    plan: StepPlan
    order: BatchOrder
    run_log: RunLog
    checkpoints: Checkpoints
    watchdog: Watchdog
    workers: int = 0
    ahead: int = 0
    """Steps for which loader workers pull media out of shards."""
    most_unreadable: int = 0
    """Samples that may be passed over because they cannot be read; with 0 the first ends the
    stage."""
    snapshot: MetricsSnapshot = field(default_factory=MetricsSnapshot)
    """The newest values, for whoever looks in while it trains."""
    measure: Callable[[Sequence[str]], dict[str, float]] | None = None
    """Takes held-out measures by name, the same result on every rank; needed where an ``until``
    names measures of single datasets."""

    def run(self, counters: Counters) -> None:
        """Train from ``counters.step`` to the end, counting along.

        Raises:
            StoppedError: SIGTERM came; the state after the current step has been committed.
            PeerLostError: another rank went away.
            VitaError: gradients were not finite in several steps in a row, or weights are not.
        """
        self.order.seek(counters.order)
        plan, throughput, sums = self.plan, Throughput(), MetricSums()
        plan.met, flat = counters.met, FlatLoss(self.spec.flat, counters.flat)
        self._follow_plan()
        self.snapshot.step = counters.step
        # Fixed for this start, also where the plan's end comes nearer later
        every = 1 if plan.end <= _EVERY_STEP_UP_TO else 10
        with stop_requests() as stopping, peer_errors():
            loader = BatchLoader(
                self.objective.collate,
                self.order,
                grad_accum=self.spec.batch.grad_accum,
                world=self.world,
                seed=self.seed,
                workers=self.workers,
                ahead=self.ahead,
                skip=self.most_unreadable > 0,
            )
            batches = loader.steps(counters.step, plan.end)
            while counters.step < plan.end:
                step, started = counters.step, time.perf_counter()
                self.watchdog.beat(f"step {step + 1}")
                loaded = next(batches)
                throughput.waited(waited := time.perf_counter() - started)
                self.snapshot.data_wait_s += waited
                global_step = self._agree(loaded, stop=stopping())
                if global_step.unreadable:
                    self._pass_over(counters, loaded.unreadable)
                norm = self._step(step, loaded.parts, global_step, sums, counters)
                self._count(counters, step, global_step, throughput, time.perf_counter() - started)
                if plan.is_due(counters.step) and self._check(counters):
                    self._follow_plan()
                    # What follows may be other data.
                    batches = loader.steps(counters.step, plan.end)
                last = counters.step == plan.end
                if counters.step % every == 0 or last:
                    counters.loss = self._log(counters, sums, norm, throughput)
                    self._look_flat(counters, flat)
                    last = counters.step == plan.end
                if self._due(self.spec.eval.interval, counters.step) or last:
                    counters.dev, counters.dev_step = self._measure(counters), counters.step
                if (
                    last
                    or global_step.stop
                    or self._due(self.spec.checkpoint_interval, counters.step)
                ):
                    self._save(counters)
                if global_step.stop and not last:
                    self._stop(counters)
            with self.watchdog.off():
                self.checkpoints.wait()

    def _save(self, counters: Counters) -> None:
        """Hand over the state after the current step.

        Raises:
            VitaError: parameters are not finite; nothing is saved.
        """
        self.watchdog.beat(f"the checkpoint after step {counters.step}")
        # Before every save: the newest checkpoint is always one that training can go on from
        ruined = not_finite(self.engine.objective)
        # Asked together: a rank that raised alone would leave the others waiting in the save
        if sum_over_ranks([len(ruined)])[0]:
            raise VitaError(
                f"after step {counters.step} the weights of {', '.join(ruined) or 'another rank'} "
                f"are not "
                "finite, nothing was saved",
                code="VT-FAIL-012",
                remedy=self._after_divergence(),
            )
        counters.order = self.order.state(counters.step)
        loss = counters.dev.get("dev.loss", math.inf)
        # A dev loss of another step would be credited to a state it was not taken of
        if counters.dev_step == counters.step and loss < counters.best.get("loss", math.inf):
            counters.best = {"step": counters.step, "loss": loss}
            self.run_log.progress(best=counters.best)
        self.checkpoints.save(
            self.engine,
            counters.step,
            vars(counters),
            extended=self.plan.extensions_begun(counters.step),
            best=counters.best.get("step"),
        )
        self.run_log.publish()

    def _after_divergence(self) -> str:
        with self.watchdog.off():
            self.checkpoints.wait()  # what is called good must be stored
        good = self.checkpoints.last_step
        kept = (
            f"the checkpoint after step {good} is good"
            if good is not None
            else "there is no checkpoint yet"
        )
        return f"lower the rates in trainable or optim.max_grad_norm, or raise optim.warmup; {kept}"

    def _skip(self, counters: Counters, global_step: GlobalStep) -> None:
        """Count a step without an update, and give up after several of them in a row."""
        allowed = _MOST_SKIPPED + self.engine.spare_skips()
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        modules = [name for name, norm in self.engine.norms().items() if not math.isfinite(norm)]
        of = ", ".join(modules) or "the model"
        warn(
            f"step {counters.step + 1}: the gradients of {of} are not finite, nothing was updated",
            everywhere=self.world.rank == 0,
        )
        if counters.skipped_in_a_row >= allowed:
            raise VitaError(
                f"the gradients of {of} were not finite in {counters.skipped_in_a_row} steps in a "
                f"row, up to "
                f"step "
                f"{counters.step + 1}",
                code="VT-FAIL-013",
                where=f"samples {', '.join(global_step.ids[:8])}",
                remedy=self._after_divergence(),
            )

    def _follow_plan(self) -> None:
        """Tell everyone who counts steps how many there are, as far as is known now."""
        self.order.set_ends(self.plan.phase_ends)
        self.snapshot.steps = self.plan.end
        self.run_log.set_steps(self.plan.end)

    def _look_flat(self, counters: Counters, flat: FlatLoss) -> None:
        """Warn about a loss that has stopped to fall, or end the stage, as its settings say."""
        ends, step = self.plan.phase_ends, counters.step
        is_looked_at = (ends[-1] if ends else 0) < step < self.plan.first_end
        if not (is_looked_at and flat.is_flat(step, counters.loss)):
            return
        what = f"the loss has not fallen below {flat.best:.4g} since step {flat.since}"
        self.run_log.progress(flat=what)
        warn(
            f"step {step}: {what}{', the stage ends here' if self.spec.flat.stop else ''}",
            everywhere=self.world.rank == 0,
        )
        if self.spec.flat.stop:
            self.plan.stop(step)
            self._follow_plan()

    def _check(self, counters: Counters) -> bool:
        """Look at the measures that the present phase trains until; True if they are met."""
        key = self.plan.pending(counters.step)
        assert key is not None
        names = list(self.plan.bounds(key))
        values: dict[str, float] = {}
        if any(name.startswith(OBJECTIVES_OWN) for name in names):
            values |= self._measure(counters)
        others = [name for name in names if not name.startswith(OBJECTIVES_OWN)]
        if others:
            assert self.measure is not None, "measures of datasets need Loop.measure"
            self.watchdog.beat(f"the measures after step {counters.step}")
            found = self.measure(others)
            self.run_log.event(counters.step, found)
            values |= found
        counters.checks = {name: values[name] for name in names if name in values}
        self.run_log.progress(
            measure={name: round(value, 4) for name, value in counters.checks.items()}
        )
        return self.plan.record(
            counters.step, values
        )  # and with that counters.met, which is the plan's own

    def _pass_over(self, counters: Counters, mine: Sequence[Unreadable]) -> None:
        """Note the samples of all ranks that could not be read.

        Raises:
            DataError: they are more than may be passed over.
        """
        # In the order of ranks, and gathered by all: counters are the same everywhere
        for rank_samples in gather_json(mine):
            for name, reason in rank_samples:
                if name not in counters.unreadable and self.world.rank == 0:
                    warn(f"passed over: {reason}")
                counters.unreadable[name] = reason
        if len(counters.unreadable) > self.most_unreadable:
            raise DataError(
                f"{len(counters.unreadable)} samples could not be read, "
                f"{self.most_unreadable} may be passed over",
                code="VT-DATA-078",
                where=f"samples {', '.join(list(counters.unreadable)[-8:])}",
                remedy="look whether the media are still where they were prepared; if so many may "
                "be missing, raise launch.max_unreadable, and the same command goes on",
            )

    def _agree(self, loaded: LoadedStep, *, stop: bool) -> GlobalStep:
        # Before the exchange: a rank that hangs in it says which samples it holds.
        self.watchdog.holding(loaded.sample_ids)
        return agree(self.objective, loaded, stop=stop)

    def _step(
        self,
        step: int,
        parts: list[MicroBatch],
        global_step: GlobalStep,
        sums: MetricSums,
        counters: Counters,
    ) -> float:
        # The random state is a function of the step, so that a resumed stage draws what it would
        # have drawn
        seed_step(self.seed, step, self.world.rank)
        batches = [
            part.with_modalities(modalities).to(self.world.device)
            for part, modalities in zip(parts, global_step.modalities, strict=True)
        ]
        factor = self.plan.rate_factor(step)
        # Kept apart until the step is known to count: one that is skipped leaves no NaN in the log
        norm, finite, own = 0.0, True, MetricSums()
        for phase in self.objective.phases:
            for index, batch in enumerate(batches):
                output = self.engine.forward_backward(
                    batch, phase, 1 / global_step.weight, last=index == len(batches) - 1
                )
                own.add(output, phase)
            norm = float(self.engine.step(phase, factor))
            finite = finite and math.isfinite(norm)
        if finite:
            counters.skipped_in_a_row = 0
            sums.merge(own)
        else:
            self._skip(counters, global_step)
        # Also after a skipped step: it holds collective calls, and sees by itself what is not
        # finite
        self.objective.after_step(step)
        sums.ids = global_step.ids
        sums.factor = factor
        return norm

    def _count(
        self,
        counters: Counters,
        step: int,
        global_step: GlobalStep,
        throughput: Throughput,
        seconds: float,
    ) -> None:
        counters.step = self.snapshot.step = step + 1
        counters.samples += global_step.samples
        counters.tokens += global_step.tokens
        counters.sample_sum = (counters.sample_sum + global_step.id_sum) % 2**53
        counters.seconds += seconds
        throughput.count(global_step.tokens, global_step.samples)
        if self.world.rank == 0:
            planned = self.order.ids(step)
            # The order's ids against the hashes of what ranks really loaded: no sample is lost or
            # doubled
            if id_sum(planned) != global_step.id_sum:
                raise VitaError(
                    f"step {counters.step} was trained on other samples than its order names",
                    code="VT-FAIL-014",
                    remedy="a rank sees other data than rank 0: compare the prepared corpora of "
                    "all nodes",
                )
            throughput.count_sources(planned)
            self.run_log.samples(counters.step, planned, global_step.id_sum)

    def _log(
        self, counters: Counters, sums: MetricSums, norm: float, throughput: Throughput
    ) -> float:
        values = sums.means()
        loss = values.pop("loss", counters.loss)  # every step of the interval may have been skipped
        rates, memory = throughput.read(), peak_memory(self.world.device)
        self.snapshot.log(loss, rates, memory)
        left = (self.plan.end - counters.step) * counters.seconds / max(1, counters.step)
        norms = {f"grad_norm.{name}": value for name, value in self.engine.norms().items()}
        self.run_log.event(
            counters.step,
            {
                "loss": loss,
                **values,
                "lr_factor": sums.factor,
                "grad_norm": norm,
                **norms,
                **rates,
                "memory_gib": memory,
                **machine_usage(self.world.device),
                **({"skipped": counters.skipped} if counters.skipped else {}),
                **({"unreadable": len(counters.unreadable)} if counters.unreadable else {}),
            },
        )
        self.run_log.progress(step=counters.step, loss=loss, eta_s=round(left, 1))
        return loss

    def _measure(self, counters: Counters) -> dict[str, float]:
        """Return the mean losses over the first dev batches; the measurement leaves training as it
        was."""
        if self.spec.eval.batches == 0:
            return {}
        self.watchdog.beat(f"the dev loss after step {counters.step}")
        order = self.objective.order("dev")
        if order is None:
            return {}
        sums = MetricSums()
        global_step: GlobalStep | None = None
        # Without workers: their start would cost more than the few batches
        loader = BatchLoader(
            self.objective.collate,
            order,
            world=self.world,
            seed=self.seed,
            ahead=self.ahead,
            skip=self.most_unreadable > 0,
        )
        for step, loaded in enumerate(loader.steps(0, self.spec.eval.batches)):
            global_step = self._agree(loaded, stop=False)
            if global_step.unreadable:
                self._pass_over(counters, loaded.unreadable)
            # By the batch's number: dev losses of different steps are taken under the same draws
            seed_step(self.seed, step, self.world.rank)
            for part, modalities in zip(loaded.parts, global_step.modalities, strict=True):
                sums.add(
                    self.engine.evaluate(part.with_modalities(modalities).to(self.world.device)),
                    "main",
                )
        metrics = {f"dev.{name}": value for name, value in sums.means().items()}
        if wrong := sorted(name for name, value in metrics.items() if not math.isfinite(value)):
            raise VitaError(
                f"after step {counters.step} {', '.join(wrong)} is not finite, although the "
                f"gradients were",
                code="VT-FAIL-015",
                where=f"samples {', '.join(global_step.ids[:8])}" if global_step else "",
                remedy=self._after_divergence(),
            )
        self.run_log.event(counters.step, metrics)
        self.run_log.progress(measure={name: round(value, 4) for name, value in metrics.items()})
        return metrics

    def _stop(self, counters: Counters) -> None:
        with self.watchdog.off():
            self.checkpoints.wait()
        raise StoppedError(
            f"stopped after step {counters.step} of {self.plan.end}; the state was saved",
            code="VT-STOP-006",
            remedy="run the same command to continue",
        )

    @staticmethod
    def _due(every: int, step: int) -> bool:
        return every > 0 and step % every == 0


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGTERM has come during the block."""
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    # Only noted: the state is saved at the end of the step that runs
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)
