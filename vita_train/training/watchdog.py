"""Ends a rank that hangs: every rank prints all its stacks and the ids of its samples, then exits
retryably."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from vita_train.errors import EXIT_RETRYABLE, PeerLostError

#: Seconds between the first rank's report and its exit. The launcher ends all ranks when one is
#: gone, and the others,
#: whose step began a moment later, must have reported by then.
GRACE = 2.0


class Watchdog:
    """A thread that expects a sign of life within ``timeout`` seconds.

    It works while the main thread waits in a collective or in C code that has released the
    interpreter lock.

    Args:
        timeout: seconds one step (or one named phase) may take.
        report: called with the error before the process ends, to leave it for the launcher.
    """

    def __init__(self, timeout: float, report: Callable[[PeerLostError], None]) -> None:
        self.timeout = timeout
        self._report = report
        self._lock = threading.Lock()
        self._deadline = float("inf")
        self._what = ""
        self._samples: Sequence[str] = ()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self, what: str, samples: Sequence[str] = ()) -> None:
        """Give the main thread ``timeout`` seconds from now for ``what``."""
        with self._lock:
            self._what, self._samples = what, samples
            self._deadline = time.monotonic() + self.timeout

    def holding(self, samples: Sequence[str]) -> None:
        """Name the samples that are being worked on, without giving more time."""
        with self._lock:
            self._samples = samples

    @contextmanager
    def off(self) -> Iterator[None]:
        """Expect nothing during the block (work whose time has no limit, such as an upload)."""
        with self._lock:
            before, self._deadline = self._deadline, float("inf")
        try:
            yield
        finally:
            with self._lock:
                self._deadline = (
                    float("inf") if before == float("inf") else time.monotonic() + self.timeout
                )

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        # Short timeouts, as tests have them, are seen in time too
        pause = min(1.0, self.timeout / 4)
        while not self._closed.wait(pause):
            with self._lock:
                late = time.monotonic() > self._deadline
                what, samples = self._what, list(self._samples)
            if late:
                self._expire(what, samples)

    def _expire(self, what: str, samples: list[str]) -> None:
        shown = ", ".join(samples[:64]) + (
            f" and {len(samples) - 64} more" if len(samples) > 64 else ""
        )
        print(
            f"watchdog: {what} took longer than {self.timeout:g} s; samples of this rank: "
            f"{shown or 'none'}; "
            "stacks of all threads follow",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        self._report(
            PeerLostError(
                f"{what} took longer than launch.step_timeout ({self.timeout:g} s)",
                code="VT-PEER-009",
                remedy="the logs of all ranks show where they stood; run the same command again, "
                "and raise "
                "launch.step_timeout if the step was only slow",
            )
        )
        sys.stderr.flush()
        time.sleep(GRACE)
        # Not sys.exit: the main thread hangs, and would never get to raise
        os._exit(EXIT_RETRYABLE)
