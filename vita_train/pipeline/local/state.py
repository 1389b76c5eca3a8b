"""What is known of a run while it goes: the state of each step, from the files that the steps
write."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita_train.recipe.selection import Selection, run_steps, step_title
from vita_train.runs.run import Run

#: States a step ends in.
ENDED = ("done", "reused", "failed")


@dataclass
class StepState:
    """One line of the console."""

    step: str
    title: str = ""
    state: str = "waiting"
    """waiting, running, done, reused (committed before), skipped (not asked for) or failed."""
    started: float = 0.0
    ended: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)
    """Last content of the step's progress.json."""
    loss: float | None = None
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds the step took, or has taken so far."""
        return (self.ended or time.time()) - self.started if self.started else 0.0

    @property
    def share(self) -> float | None:
        """Share of the step's work that is done; None when the step does not say."""
        if self.state in ("done", "reused"):
            return 1.0
        steps = self.progress.get("steps")
        return self.progress.get("step", 0) / steps if steps else None


class RunState:
    """Follows the steps' log and the progress file of the running step.

    Args:
        run: which.
        selection: the steps that were asked for.
        log: the steps' log (see `vita_train.pipeline.step_commit.STEPS_LOG`).
    """

    def __init__(self, run: Run, selection: Selection, log: Path) -> None:
        self.steps = {
            step: StepState(
                step,
                step_title(run.recipe, step),
                "waiting" if selection.picks(step) else "skipped",
            )
            for step in run_steps(run.recipe)
        }
        self._home = run.dir
        self._log = log
        self._read = 0

    def refresh(self) -> list[StepState]:
        """Read what is new and return the steps whose state changed, in order of the changes."""
        changed = []
        for event in self._new_events():
            step = self.steps.get(str(event.get("step")))
            if step is None:
                continue
            if step.state == event.get("state") == "reused":
                continue  # the first step has told it before
            step.state = str(event.get("state"))
            if step.state == "running":
                step.started = float(event["time"])
            elif step.state in ENDED:
                step.ended = float(event["time"])
                step.started = step.started or step.ended
            step.error = event.get("error") or {}
            changed.append(step)
        for step in self.steps.values():
            if step.state == "running" or step in changed:
                self._read_progress(step)
        return changed

    def failed(self) -> StepState | None:
        """Return the step that failed, if one did."""
        return next((step for step in self.steps.values() if step.state == "failed"), None)

    def _new_events(self) -> list[dict[str, Any]]:
        if not self._log.exists():
            return []
        data = self._log.read_bytes()[self._read :]
        whole = data[: data.rfind(b"\n") + 1]  # the last line may still be being written
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _read_progress(self, step: StepState) -> None:
        progress = _json(self._home / step.step / "progress.json")
        if progress:
            step.progress = progress
        if isinstance(loss := step.progress.get("loss"), int | float):
            step.loss = float(loss)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
