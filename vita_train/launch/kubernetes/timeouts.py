"""The launcher's clocks: waiting, running, and how long a pod may be unable to start."""

from __future__ import annotations

from vita_train.launch.kubernetes.failures import Failure, Reason
from vita_train.recipe.platform import TimeSpec

#: What no waiting cures: an image that is not there, a Secret that is not there.
_HOPELESS = (Reason.IMAGE, Reason.USER_ERROR)


class JobTimeouts:
    """Adds up how long a job waited and how long it ran, whatever the order of the two.

    Args:
        times: the limits.
    """

    def __init__(self, times: TimeSpec) -> None:
        self._times = times
        self._last: float | None = None
        self._waited = self._ran = self._hopeless = 0.0

    def over(self, is_running: bool, blocker: Failure | None, *, now: float) -> Failure | None:
        """Return the failure when a clock has run out.

        Args:
            is_running: whether all its pods have run since the last call.
            blocker: what keeps it from starting, if anything does.
            now: seconds of a monotonic clock.
        """
        passed = now - (now if self._last is None else self._last)
        self._last = now
        if is_running:
            self._ran += passed
        else:
            self._waited += passed
        # Begins anew where the reason goes away: an image registry may only have been slow
        self._hopeless = self._hopeless + passed if blocker and blocker.reason in _HOPELESS else 0.0
        if blocker and self._hopeless >= self._times.start:
            return blocker
        if self._waited >= self._times.queue:
            why = f": {blocker.what}" if blocker else ""
            return Failure(
                blocker.reason if blocker else Reason.DEADLINE,
                f"it has waited {self._waited:.0f} s to run{why}",
                remedy="raise times.queue, or make room",
            )
        if self._ran >= self._times.run:
            return Failure(
                Reason.DEADLINE,
                f"it has run for {self._ran:.0f} s",
                remedy="raise times.run; the next launch goes on from the last checkpoint",
            )
        return None
