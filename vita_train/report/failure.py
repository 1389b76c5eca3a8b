"""What a run failed of, for the top of its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vita_train.report.collect import STEP_TITLES, RunView


@dataclass(frozen=True)
class Failure:
    """Why a run does not go on, and what to do about it."""

    step: str
    title: str
    what: str
    where: str = ""
    remedy: str = ""
    log: tuple[str, ...] = ()
    """Last lines of the log."""


def failure_of(run: RunView) -> Failure | None:
    """Return the failure that the page begins with: the first stage's, else the first step's around
    them."""
    for stage in run.stages:
        if stage.state in ("failed", "stopped"):
            title = f"Stage {stage.name}, {stage.title}, {stage.state}"
            return _failure(stage.name, title, stage.progress, stage.reason, stage.log_tail)
    for step, progress in run.failed_steps.items():
        return _failure(step, f"{STEP_TITLES[step]} failed", progress, "", [])
    return None


def _failure(
    step: str, title: str, progress: Mapping[str, Any], reason: str, log: list[str]
) -> Failure:
    error = progress.get("error")
    told = error if isinstance(error, dict) and error.get("what") else {}
    reason = str(progress.get("reason") or reason or "no reason was left behind")
    return Failure(
        step,
        title,
        str(told.get("what") or reason),
        str(told.get("where") or ""),
        str(told.get("remedy") or ""),
        tuple(log),
    )
