"""Progress for people: a live bar on a terminal, a few plain lines everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_LINES = 5


def say(text: str) -> None:
    """Print one line to the error stream, where it never mixes with a command's output."""
    print(text, file=sys.stderr, flush=True)


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Hand on ``items`` while showing how many of ``total`` have passed.

    On a terminal this is a bar; elsewhere a line each fifth of the way, so that log files stay short.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, total=total, description=label, console=Console(stderr=True))
        return
    shown = 0
    for done, item in enumerate(items, 1):
        yield item
        part = _LINES * done // max(total, 1)
        if part > shown:
            shown = part
            say(f"{label}: {done}/{total}")
