"""The Argo Workflow a launcher belongs to when KFP runs it: the owner of its job, and the one who
knows of a cancel."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.job import Object
from vita_train.launch.kubernetes.kind import Resource
from vita_train.launch.kubernetes.watch import PODS, Watcher
from vita_train.recipe.platform import POD

#: A pod's name, unless it is longer than a host name may be.
HOSTNAME = "HOSTNAME"
WORKFLOWS = Resource("argoproj.io", "v1alpha1", "workflows", "Workflow")
_LABEL = "workflows.argoproj.io/workflow"
_STOPS = ("Stop", "Terminate")
_GOING_ON = ("", "Pending", "Running")


@dataclass(frozen=True)
class Workflow:
    """One Workflow, by name."""

    namespace: str
    name: str
    uid: str

    def owner_in(self, namespace: str) -> Object | None:
        """Return the reference that makes a job of a namespace go when the Workflow is deleted;
        None in another namespace than the Workflow's, where nothing can be owned by it."""
        if namespace != self.namespace:
            return None
        return {
            "apiVersion": WORKFLOWS.api_version,
            "kind": WORKFLOWS.kind,
            "name": self.name,
            "uid": self.uid,
        }


def own_workflow(cluster: Cluster, namespace: str) -> Workflow | None:
    """Return the Workflow that this process's pod is a step of; None outside of one."""
    named = os.environ.get(POD) or os.environ.get(HOSTNAME)
    pod = cluster.read(PODS, namespace, named) if named else None
    name = str(((pod or {}).get("metadata", {}).get("labels") or {}).get(_LABEL, ""))
    found = cluster.read(WORKFLOWS, namespace, name) if name else None
    return Workflow(namespace, name, str(found["metadata"]["uid"])) if found else None


def is_cancelled(cluster: Cluster, workflow: Workflow | None) -> bool:
    """Say whether a launcher that is asked to stop was cancelled, rather than evicted alone.

    KFP terminates a run by setting the Workflow's ``activeDeadlineSeconds`` to 0 (pipelines #7361);
    Argo itself by ``shutdown``. Without a Workflow it was a person at a shell.
    """
    return workflow is None or _asks_to_stop(
        cluster.read(WORKFLOWS, workflow.namespace, workflow.name)
    )


def is_terminated(workflow: Object) -> bool:
    """Say whether a person ended a Workflow, or is ending it."""
    spec = workflow.get("spec") or {}
    return spec.get("shutdown") in _STOPS or spec.get("activeDeadlineSeconds") == 0


def _asks_to_stop(found: Object | None) -> bool:
    """Say whether nobody waits for the jobs of a Workflow any more; None is one that is gone."""
    return (
        found is None
        or bool(found["metadata"].get("deletionTimestamp"))
        or is_terminated(found)
        or not is_going_on(found)
    )


class CancelWatch:
    """The launcher's own Workflow, watched for a cancel.

    A cancel stands in the Workflow 4 to 5 s before any signal reaches a pod, and between the signal
    and the end of a step's container there is less than a second.

    Args:
        cluster: where to watch.
        workflow: whose step the launcher is; none is never cancelled this way.
        out: takes a line when the Workflow cannot be watched.
    """

    def __init__(
        self, cluster: Cluster, workflow: Workflow | None, out: Callable[[str], None]
    ) -> None:
        self._changes: Queue[tuple[str, str, Any]] = Queue()
        self._cancelled, self._out = False, out
        self._watcher = (
            Watcher(
                cluster,
                WORKFLOWS,
                workflow.namespace,
                self._changes,
                fieldSelector=f"metadata.name={workflow.name}",
            )
            if workflow
            else None
        )

    def __enter__(self) -> CancelWatch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._watcher:
            self._watcher.stop()

    def is_cancelled(self) -> bool:
        """Say whether a cancel was seen by now; answers at once."""
        with suppress(Empty):
            while True:
                self._take(*self._changes.get_nowait()[1:])
        return self._cancelled

    def _take(self, change: str, thing: Any) -> None:
        if change == "FAILED":
            self._out(
                f"the run's Workflow cannot be watched, so a cancel may leave the job to the "
                f"janitor: {thing}"
            )
            return
        if change == "SYNC":
            found = thing[0] if thing else None
        else:
            found = None if change == "DELETED" else thing
        # Once seen it stays: a Workflow that is deleted next says no more
        self._cancelled = self._cancelled or _asks_to_stop(found)


def is_going_on(workflow: Object) -> bool:
    """Say whether a Workflow has not ended yet."""
    return str((workflow.get("status") or {}).get("phase") or "") in _GOING_ON
