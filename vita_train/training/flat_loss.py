"""Sees that a training loss has stopped to fall."""

from __future__ import annotations

import math
from typing import Any

from vita_train.recipe.flat import FlatSpec


class FlatLoss:
    """Holds the mean loss of each window of steps against the best mean before.

    Means over windows rather than single values: the noise of one batch is larger than what many
    steps gain.

    Args:
        spec: length of the windows, and by how much each has to be better.
        state: what was seen before, from a checkpoint; changed in place.
    """

    def __init__(self, spec: FlatSpec, state: dict[str, Any]) -> None:
        self._spec = spec
        self._state = state

    @property
    def best(self) -> float:
        """The best mean of a window so far."""
        return float(self._state["best"])

    @property
    def since(self) -> int:
        """The step at which the best window ended."""
        return int(self._state["best_at"])

    def is_flat(self, step: int, loss: float) -> bool:
        """Take the loss logged after a step; True where it ends a window that is no better than the
        best before."""
        if not self._spec.steps or not math.isfinite(loss):
            return False
        state = self._state
        if "from" not in state:
            state.update({"from": step, "losses": 0.0, "count": 0})
        state["losses"] += loss
        state["count"] += 1
        if step - state["from"] < self._spec.steps:
            return False
        mean = state["losses"] / state["count"]
        state.update({"from": step, "losses": 0.0, "count": 0})
        # abs: a tolerance of a negative loss must not turn around
        if "best" in state and mean > self.best - self._spec.tolerance * abs(self.best):
            return True
        state.update(best=mean, best_at=step)
        return False
