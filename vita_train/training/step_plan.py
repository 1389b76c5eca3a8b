"""How many steps a stage trains and at which rate, while some of it is only known once measures are
reached.

A stage is a row of curriculum phases, its own data, the decay of the rate, and any extensions.
Phases and stages that train ``until`` measures reach their bounds end at the step at which that was
seen; the plan notes these steps in ``met``, which is saved with every checkpoint, so that a resumed
stage follows the same plan. Apart from ``met`` everything here is a pure function of the recipe and
the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from vita_train.evaluation.gates import OBJECTIVES_OWN, GateResult
from vita_train.recipe.stage import Gate, StageSpec
from vita_train.training.optim.schedule import decay_steps, rate_factor, warmup_steps

if TYPE_CHECKING:
    from vita_train.training.batches import BatchOrder

#: Key of the stage's own ``until`` in ``met``.
STAGE = "stage"
#: Key in ``met`` of the step at which a stage was ended because its loss was flat.
FLAT = "flat"
#: Share of the steps that the decay takes where a stage trains until something and does not say.
_DECAY_SHARE = 0.2


def most_steps(spec: StageSpec, order: BatchOrder) -> int:
    """Return a stage's steps, or the most it may take with ``until``; extensions not counted."""
    # Counted only where epochs are asked for: it takes a while where rows are packed
    return spec.most_steps or max(1, round((spec.epochs or 1.0) * order.steps_per_epoch))


@dataclass
class StepPlan:
    """The steps of one stage.

    Args:
        spec: the stage.
        most_steps: its steps, or the most it may take with ``until``; extensions not counted.
        met: what has been reached so far: ``curriculum.<number>`` or ``stage`` to the number of
            steps done then.
    """

    spec: StageSpec
    most_steps: int
    met: dict[str, int] = field(default_factory=dict)

    @property
    def decay(self) -> int | None:
        """Steps of the decay; None when it begins where the warm-up ends."""
        if self.spec.until and self.spec.optim.decay is None:
            return max(1, round(_DECAY_SHARE * self.most_steps))
        return decay_steps(self.spec.optim, self.most_steps)

    @property
    def decay_from(self) -> int:
        """First step of the decay, as far as is known now."""
        if self.decay is None:
            return 0
        last = max(0, self.most_steps - self.decay)
        # What is reached early brings the decay forward; it never moves it back
        return min(last, self.met.get(STAGE, last))

    @property
    def first_end(self) -> int:
        """Steps before any extension, as far as is known now."""
        most = min(self.most_steps, self.met.get(FLAT, self.most_steps))
        if not self.spec.until or self.decay is None:
            return most
        return min(most, self.decay_from + self.decay)

    @property
    def end(self) -> int:
        """Steps of the stage, as far as is known now; it never grows."""
        return self.first_end + sum(self.spec.extend)

    @property
    def phase_ends(self) -> list[int]:
        """Step at which each curriculum phase ends, as far as is known now."""
        ends: list[int] = []
        for number, phase in enumerate(self.spec.curriculum):
            start = ends[-1] if ends else 0
            ends.append(
                min(
                    start + phase.most_steps, self.met.get(_phase(number), start + phase.most_steps)
                )
            )
        return ends

    def rate_factor(self, step: int) -> float:
        """Return the factor on every peak rate at ``step`` (from 0).

        An extension is a warm restart (Loshchilov and Hutter, "SGDR", 2017): its own warm-up, then
        the decay.
        """
        optim, end = self.spec.optim, self.first_end
        if step < end:
            return rate_factor(
                step,
                end,
                optim.model_copy(update={"warmup": self._warmup}),
                decay_from=self.decay_from,
            )
        starts = list(accumulate(self.spec.extend, initial=end))
        number = max(index for index, start in enumerate(starts[:-1]) if start <= step)
        steps = self.spec.extend[number]
        # A long stage's warm-up could be all of a short extension
        warmup = min(self._warmup, max(1, steps // 10))
        return rate_factor(
            step - starts[number], steps, optim.model_copy(update={"warmup": warmup})
        )

    @property
    def _warmup(self) -> int:
        # A share of all steps must not change when the end becomes known.
        return warmup_steps(self.spec.optim, self.most_steps)

    def extensions_begun(self, step: int) -> list[int]:
        """Return the extensions that training had entered after ``step`` steps."""
        starts = accumulate(self.spec.extend, initial=self.first_end)
        return [
            steps for start, steps in zip(starts, self.spec.extend, strict=False) if start < step
        ]

    @property
    def dataset_measures(self) -> list[str]:
        """Every measure of a single dataset that the stage or a phase trains until, sorted."""
        names = {
            name
            for bounds in (self.spec.until, *(phase.until for phase in self.spec.curriculum))
            for name in bounds
        }
        return sorted(name for name in names if not name.startswith(OBJECTIVES_OWN))

    def pending(self, step: int) -> str | None:
        """Return whose ``until`` decides what happens after ``step`` steps: a key of ``met``, or
        None."""
        for number, end in enumerate(self.phase_ends):
            if step < end:
                return _phase(number) if self.spec.curriculum[number].until else None
        return STAGE if self.spec.until and step < self.decay_from else None

    def bounds(self, key: str) -> Mapping[str, Gate]:
        """Return the measures of a key of ``met`` and their bounds."""
        return (
            self.spec.until
            if key == STAGE
            else self.spec.curriculum[int(key.rpartition(".")[2])].until
        )

    def is_due(self, step: int) -> bool:
        """Whether the measures are looked at after ``step`` steps."""
        key = self.pending(step)
        return (
            key is not None
            # Counted from where the phase began: its first look has a whole interval behind it
            and step > (start := self._start(key))
            and not (step - start) % self.spec.check_interval
        )

    def record(self, step: int, values: Mapping[str, float]) -> bool:
        """Note what was measured after ``step`` steps; True if the bounds are met and the plan has
        changed."""
        key = self.pending(step)
        if key is None or not all(
            GateResult(name, gate, values.get(name)).met for name, gate in self.bounds(key).items()
        ):
            return False
        self.met[key] = step
        return True

    def stop(self, step: int) -> None:
        """End the stage after ``step`` steps, but for its extensions."""
        self.met[FLAT] = step

    def _start(self, key: str) -> int:
        ends = self.phase_ends
        number = len(ends) if key == STAGE else int(key.rpartition(".")[2])
        return ends[number - 1] if number else 0


def _phase(number: int) -> str:
    return f"curriculum.{number}"
