"""How far a fetch is: bytes, rate and time left, for all of its transfers together."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vita_train.console import say

#: Seconds between two lines where there is no terminal.
_LINE_SECONDS = 30.0


class Progress:
    """Counts bytes of any thread and shows them.

    Args:
        label: what is done.
        total: bytes; None where they are not known.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self._label, self._total = label, total
        self._done, self._came = 0, 0
        self._mutex = threading.Lock()
        self._began = self._shown = time.monotonic()
        self._bar = _bar(label, total) if sys.stderr.isatty() else None

    def skip(self, count: int) -> None:
        """Note bytes that were there already: they are no part of the rate."""
        with self._mutex:
            self._done += count
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._done)

    def add(self, count: int) -> None:
        """Note bytes that came, or with a negative number bytes that must come again."""
        with self._mutex:
            self._done += count
            self._came += max(count, 0)
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._done)
            elif time.monotonic() - self._shown > _LINE_SECONDS:
                self._shown = time.monotonic()
                say(self.line())

    def line(self) -> str:
        """Return what is shown where there is no terminal."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = self._came / seconds
        parts = [f"{self._label}: {size(self._done)}"]
        if self._total is not None:
            parts[0] += f" of {size(self._total)}"
        parts.append(f"{size(int(rate))}/s")
        if self._total is not None and rate:
            left = max(self._total - self._done, 0) / rate
            parts.append(f"{_time(left)} left")
        return ", ".join(parts)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it while the block runs; one line at the end where there is no terminal."""
        if self._bar is not None:
            with self._bar:
                yield
            return
        yield
        if self._came:
            say(self.line())


def _bar(label: str, total: int | None) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bars.add_task(label, total=total)
    return bars


def size(count: int) -> str:
    """Return bytes as people read them."""
    if count < 1000:
        return f"{count} bytes"
    number = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 1000 or unit == "TB":
            break
    return f"{number:.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
