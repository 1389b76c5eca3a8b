"""Orphaned jobs: the launcher deletes its own, this finds those it could not.

A run that is terminated while its launcher is killed outright, or a namespace of jobs apart from
that of the Workflows, leaves a job that keeps its GPUs. A job that is over and was never deleted
keeps its pods and their logs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.job import MANAGED_BY, WORKFLOW, Object
from vita_train.launch.kubernetes.kind import JobKind
from vita_train.launch.kubernetes.state import seconds
from vita_train.launch.kubernetes.workflow import WORKFLOWS, is_going_on, is_terminated

Say = Callable[[str], None]


@dataclass(frozen=True)
class JobRetention:
    """How long things are left alone.

    Attributes:
        workflow: seconds after a Workflow's end until a job of it is deleted; a run that is retried
            goes on meanwhile.
        terminated: the same after the end of one that a person terminated.
        over: seconds after a job's own end until it is deleted, with its pods and their logs.
    """

    workflow: float = 600.0
    terminated: float = 60.0
    over: float = 86400.0


def collect_garbage(
    cluster: Cluster,
    backends: list[JobKind],
    namespace: str,
    workflows: str,
    retention: JobRetention,
    *,
    out: Say,
    dry_run: bool = False,
) -> int:
    """Delete the orphaned jobs of a namespace and return how many there were.

    A job that was started from a shell belongs to no Workflow and is left alone as long as it runs.

    Args:
        cluster: the API.
        backends: kinds of job to look for; those the cluster serves.
        namespace: of the jobs.
        workflows: namespace of the Workflows.
        retention: how long to wait first.
        out: takes a line for each job that is deleted.
        dry_run: only say what would be deleted.

    Raises:
        VitaError: the API refuses or stays away.
    """
    selector = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())
    number = 0
    for backend in backends:
        jobs, _ = cluster.objects(backend.resource, namespace, labelSelector=selector)
        for job in sorted(jobs, key=lambda job: str(job["metadata"]["name"])):
            why = _why(cluster, backend, job, workflows, retention, time.time())
            if not why or job["metadata"].get("deletionTimestamp"):
                continue
            number += 1
            name = str(job["metadata"]["name"])
            out(f"job {name}: {why}; {'it would be deleted' if dry_run else 'deleted'}")
            if not dry_run:
                cluster.delete(backend.resource, namespace, name, str(job["metadata"]["uid"]))
    return number


def _why(
    cluster: Cluster,
    backend: JobKind,
    job: Object,
    workflows: str,
    retention: JobRetention,
    now: float,
) -> str:
    """Say why nobody waits for a job; empty if somebody may."""
    if backend.state(job).phase.over and now - _ended(job) > retention.over:
        return "it ended and nobody deleted it"
    name = str((job["metadata"].get("annotations") or {}).get(WORKFLOW, ""))
    if not name:
        return ""
    workflow = cluster.read(WORKFLOWS, workflows, name)
    if workflow is None:
        # It may have been deleted this moment; a job younger than that waits for the next time.
        old = now - seconds(job["metadata"]["creationTimestamp"]) > retention.workflow
        return f"its Workflow {name} is gone" if old else ""
    terminated = is_terminated(workflow)
    wait = min(retention.terminated, retention.workflow) if terminated else retention.workflow
    if (
        is_going_on(workflow)
        or now - seconds((workflow.get("status") or {}).get("finishedAt")) <= wait
    ):
        return ""
    return f"its Workflow {name} {'was terminated' if terminated else 'is over'}"


def _ended(job: Mapping[str, Any]) -> float:
    """Return when a job that is over last changed, in seconds since 1970."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return max((seconds(entry.get("lastTransitionTime")) for entry in conditions), default=0.0)
