"""The ladder on a terminal, one live line a step; plain lines wherever the output goes to a
file."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vita_train.console import clock
from vita_train.pipeline.local.state import RunState, StepState

_MARKS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "cyan"),
    "done": ("✓", "green"),
    "reused": ("✓", "dim green"),
    "skipped": ("–", "dim"),
    "failed": ("✗", "bold red"),
}
_BAR = 16
_PLAIN_SECONDS = 30.0


class Ladder:
    """Shows a run while it goes; a context manager.

    Args:
        state: what to show.
        console: where to; a terminal gets a live table, anything else plain lines.
    """

    def __init__(self, state: RunState, console: Console) -> None:
        self._state = state
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said = 0.0

    def __enter__(self) -> Ladder:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Read what is new and show it."""
        changed = self._state.refresh()
        if self._live:
            self._live.update(ladder_table(self._state.steps.values()), refresh=True)
            return
        for step in changed:
            self._print(step)
        if time.monotonic() - self._said > _PLAIN_SECONDS:
            for step in self._state.steps.values():
                if step.state == "running":
                    self._print(step)

    def _print(self, step: StepState) -> None:
        self._said = time.monotonic()
        self._console.print(plain_line(step), highlight=False, soft_wrap=True)


def ladder_table(steps: Iterable[StepState]) -> Table:
    """Return the ladder as a table: mark, step, progress, loss, held-out measure, time."""
    table = Table.grid(padding=(0, 2))
    for step in steps:
        mark, style = _MARKS[step.state]
        table.add_row(
            Text(mark, style),
            Text(step.step, style),
            Text(step.title, style),
            Text(_bar(step), "cyan" if step.state == "running" else "dim"),
            Text(_loss(step)),
            Text(_measure(step)),
            Text(_time(step), "dim"),
        )
    return table


def plain_line(step: StepState) -> str:
    """Return a step's line for output that is no terminal."""
    parts = [f"{step.step:<10}", f"{step.title:<27}", f"{step.state:<8}"]
    if step.state == "running" and step.progress.get("steps"):
        parts.append(f"{step.progress.get('step', 0)}/{step.progress['steps']}")
    parts += [part for part in (_loss(step), _measure(step), _time(step)) if part]
    return "  ".join(parts).rstrip()


def _bar(step: StepState) -> str:
    if step.state in ("waiting", "skipped"):
        return ""
    if step.state == "reused":
        return "committed before"
    share = step.share
    if share is None:
        return ""
    full = round(_BAR * min(share, 1.0))
    return "━" * full + "╌" * (_BAR - full)


def _loss(step: StepState) -> str:
    return (
        f"loss {step.loss:.3f}"
        if step.loss is not None and step.state in ("running", "done")
        else ""
    )


def _measure(step: StepState) -> str:
    """Return the held-out measure as the stage states it: a mapping, or words."""
    measure: Any = step.progress.get("measure")
    if not measure or step.state not in ("running", "done"):
        return ""
    if isinstance(measure, dict):
        return ", ".join(f"{name} {value:.3f}" for name, value in list(measure.items())[:2])
    return f"held out {measure:.3f}" if isinstance(measure, float) else str(measure)


def _time(step: StepState) -> str:
    if step.state == "running":
        left = step.progress.get("eta_s")
        return f"{clock(left)} left" if isinstance(left, int | float) else clock(step.seconds)
    return clock(step.seconds) if step.state in ("done", "failed") else ""
