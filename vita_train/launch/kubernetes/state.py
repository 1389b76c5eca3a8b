"""How a job stands, whichever kind it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

#: Annotation and label of a pod of an Indexed Job: its number.
_INDEX = "batch.kubernetes.io/job-completion-index"


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


def batch_state(job: Mapping[str, Any], *, is_active: bool) -> JobState:
    """Return the state of a job that has conditions as Kubernetes' own Job has them: none tells
    that it runs, which pods that are active do.

    Args:
        job: with ``spec.suspend``, which a queue sets.
        is_active: whether it has such pods.
    """
    for kind, phase in (
        ("Complete", Phase.SUCCEEDED),
        ("Failed", Phase.FAILED),
        ("Suspended", Phase.SUSPENDED),
    ):
        if entry := condition(job, kind):
            return said(phase, entry)
    if is_active:
        return JobState(Phase.RUNNING)
    return JobState(Phase.SUSPENDED if is_suspended(job) else Phase.PENDING)


def is_suspended(job: Mapping[str, Any]) -> bool:
    """Read ``spec.suspend``."""
    return bool(job["spec"].get("suspend"))


def completion_index(pod: Mapping[str, Any]) -> int:
    """Return the number that an Indexed Job gave a pod: an annotation, and a label in newer
    versions."""
    metadata = pod["metadata"]
    return int(
        (metadata.get("annotations") or {}).get(_INDEX)
        or (metadata.get("labels") or {}).get(_INDEX, 0)
    )


def seconds(stamp: str | None) -> float:
    """Return a Kubernetes time stamp in seconds since 1970; 0 for none."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0
