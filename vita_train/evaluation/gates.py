"""A stage's exit gates: bounds its held-out measures must meet before the next stage may start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vita_train.errors import GateError
from vita_train.recipe.stage import Gate, StageSpec

OBJECTIVES_OWN = "dev."
"""What the names of an objective's own metrics begin with, which a stage takes of the dev splits of
all its datasets while it trains. They mean something else in every stage."""


@dataclass(frozen=True)
class GateResult:
    """One gate and how the stage stood before it."""

    measure: str
    gate: Gate
    value: float | None
    """None: the measure was not taken."""

    @property
    def met(self) -> bool:
        """Whether the value lies within the bounds. A value that is missing or not a number meets
        no gate."""
        if self.value is None or math.isnan(self.value):
            return False
        above = self.gate.min is None or self.value >= self.gate.min
        below = self.gate.max is None or self.value <= self.gate.max
        return above and below

    @property
    def bound(self) -> str:
        """The bounds in words: ``at least 0.8``, ``at most 0.05``, or both."""
        parts = []
        if self.gate.min is not None:
            parts.append(f"at least {self.gate.min:g}")
        if self.gate.max is not None:
            parts.append(f"at most {self.gate.max:g}")
        return " and ".join(parts)

    def __str__(self) -> str:
        value = "was not measured" if self.value is None else f"is {self.value:.4g}"
        return f"{self.measure} {value}, must be {self.bound}"


def gate_results(spec: StageSpec, metrics: Mapping[str, float]) -> list[GateResult]:
    """Return every gate of a stage with the value it was held against, in the recipe's order."""
    return [GateResult(name, gate, metrics.get(name)) for name, gate in spec.gates.items()]


def check_gates(
    spec: StageSpec, metrics: Mapping[str, float], *, where: str = "", remedy: str = ""
) -> list[str]:
    """Let a stage pass, or say which of its gates it failed.

    Args:
        spec: the stage; with ``accept`` it passes in any case.
        metrics: what was measured.
        where: the stage, for the message.
        remedy: what to do about a missed gate.

    Returns:
        The gates that were missed and accepted, each with its measure, value and bound.

    Raises:
        GateError: at least one gate is not met; the message lists each with its measure, value and
            bound.
    """
    failed = [str(result) for result in gate_results(spec, metrics) if not result.met]
    if failed and not spec.accept:
        raise GateError(
            "exit gate not met: " + "; ".join(failed),
            code="VT-GATE-001",
            where=where,
            remedy=remedy or "train longer or on more data, or change the gate if it asks too much",
        )
    return failed
