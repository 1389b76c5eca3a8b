"""The factor on the loss that keeps gradients within float16's range."""

from __future__ import annotations

from math import log2

#: As the public DeepSpeed files have it: where it starts, and steps after which it is doubled.
FIRST = 2.0**16
WINDOW = 1000


class LossScale:
    """Dynamic loss scale (Micikevicius et al. 2018, section 3.2): halved by a step whose gradients
    overflow, doubled after `WINDOW` steps in a row that do not; never below 1.

    Of a run that computes in another type it is 1 and stays there.
    """

    def __init__(self, *, dynamic: bool) -> None:
        self.dynamic = dynamic
        self.value = FIRST if dynamic else 1.0
        self.good_steps = 0

    @property
    def halvings(self) -> int:
        """Overflows in a row that may still be the scale's fault."""
        return int(log2(self.value)) if self.dynamic else 0

    def update(self, *, finite: bool) -> None:
        """Take note of a step."""
        if not self.dynamic:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.good_steps == WINDOW:
            self.value, self.good_steps = self.value * 2, 0

    def state(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {"value": self.value, "good_steps": float(self.good_steps)}

    def load(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self.value, self.good_steps = state["value"], int(state["good_steps"])
