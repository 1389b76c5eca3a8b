"""The Argo Workflow a launcher belongs to when KFP runs it: the owner of its job, and the one who
knows of a cancel."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.job import Object
from vita_train.launch.kubernetes.kind import Resource
from vita_train.launch.kubernetes.watch import PODS
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

    def owner(self) -> Object:
        """Return the reference that makes a job go when the Workflow is deleted."""
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
    if workflow is None:
        return True
    found = cluster.read(WORKFLOWS, workflow.namespace, workflow.name)
    if found is None or found["metadata"].get("deletionTimestamp"):
        return True
    spec = found.get("spec") or {}
    return (
        spec.get("shutdown") in _STOPS
        or spec.get("activeDeadlineSeconds") == 0
        or not is_going_on(found)
    )


def is_going_on(workflow: Object) -> bool:
    """Say whether a Workflow has not ended yet."""
    return str((workflow.get("status") or {}).get("phase") or "") in _GOING_ON
