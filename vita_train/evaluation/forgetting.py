"""What later stages cost earlier ones: every measure after every stage, and the largest fall.

A stage is measured on its own goals and on the goals of the stages before it, as far as it trained
anything they depend on. A stage that trained nothing a measure depends on leaves it unchanged, and
the table says so by carrying the value forward instead of measuring the same weights again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vita_train.evaluation.gates import OBJECTIVES_OWN

#: Last parts of measure names that are shares of right answers: more is better, differences are
#: points.
SHARES: tuple[str, ...] = ("accuracy", "attributes", "state_mark", "retrieval")
#: Last parts of measure names that are shares of errors: less is better, differences are points.
ERROR_SHARES: tuple[str, ...] = (
    "wer",
    "cer",
    "llm_wer",
    "llm_cer",
    "wer_original",
    "wer_resynthesis",
)


def is_share(measure: str) -> bool:
    """Whether a measure is a share of right or wrong answers, so that a change of 0.01 is one
    point."""
    return measure.rsplit(".", 1)[-1] in SHARES + ERROR_SHARES


def lower_is_better(measure: str) -> bool:
    """Whether less is better: error rates, losses and distances."""
    return measure.rsplit(".", 1)[-1] not in (*SHARES, "codes_used", "perplexity")


@dataclass(frozen=True)
class Fall:
    """How much a measure lost between two stages. ``points`` is in hundredths: 3.0 is three
    points."""

    measure: str
    best_stage: str
    stage: str
    points: float


@dataclass(frozen=True)
class ForgettingTable:
    """Measures by stage; ``measured[m][s]`` is absent where stage ``s`` could not have changed
    measure ``m``."""

    stages: tuple[str, ...]
    measured: dict[str, dict[str, float]]

    def value(self, measure: str, stage: str) -> float | None:
        """Return the value that held after a stage: measured there, or carried from the last stage
        that measured it."""
        found = None
        for name in self.stages[: self.stages.index(stage) + 1]:
            found = self.measured[measure].get(name, found)
        return found

    def falls(self) -> list[Fall]:
        """Return each measure's largest fall below its best earlier value, the largest first;
        improvements are not listed. A measure that stopped being a number fell by everything it
        had."""
        falls = [fall for measure in self.measured if (fall := self._fall(measure)) is not None]
        return sorted(falls, key=lambda fall: (-fall.points, fall.measure))

    def largest_fall(self) -> Fall | None:
        """Return the largest fall of all, or None if nothing ever got worse."""
        return next(iter(self.falls()), None)

    def _fall(self, measure: str) -> Fall | None:
        sign = -1.0 if lower_is_better(measure) else 1.0
        best: tuple[float, str] | None = None
        largest: Fall | None = None
        for stage in self.stages:
            if stage not in self.measured[measure]:
                continue
            value = sign * self.measured[measure][stage]
            if best is not None:
                points = 100.0 if math.isnan(value) else 100.0 * (best[0] - value)
                if points > (largest.points if largest else 0.0):
                    largest = Fall(measure, best[1], stage, points)
            if not math.isnan(value) and (best is None or value > best[0]):
                best = (value, stage)
        return largest


def forgetting_table(metrics_by_stage: Mapping[str, Mapping[str, float]]) -> ForgettingTable:
    """Arrange the metrics of the stages' manifests, given in ladder order, as a table of shares.

    Losses and distances are left out: a fall in points means nothing for them.
    """
    measured: dict[str, dict[str, float]] = {}
    for stage, metrics in metrics_by_stage.items():
        for name in sorted(metrics):
            if is_share(name) and not name.startswith(OBJECTIVES_OWN):
                measured.setdefault(name, {})[stage] = metrics[name]
    return ForgettingTable(tuple(metrics_by_stage), measured)
