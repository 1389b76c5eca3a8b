"""How a job stands, whichever kind it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """What a job is doing."""

    PENDING = "pending"
    SUSPENDED = "suspended"
    RUNNING = "running"
    RESTARTING = "restarting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


@dataclass(frozen=True)
class JobState:
    """A job's phase with the controller's own words for it."""

    phase: Phase
    reason: str = ""
    message: str = ""


def condition(job: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """Return a job's condition of a type if it is true. Their order says nothing: changed ones move
    to the end."""
    for entry in (job.get("status") or {}).get("conditions") or ():
        if entry.get("type") == kind and entry.get("status") == "True":
            return dict(entry)
    return None


def said(phase: Phase, entry: Mapping[str, Any] | None) -> JobState:
    """Return a state with what a condition says about it."""
    return JobState(
        phase, str((entry or {}).get("reason") or ""), str((entry or {}).get("message") or "")
    )


def seconds(stamp: str | None) -> float:
    """Return a Kubernetes time stamp in seconds since 1970; 0 for none."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0
