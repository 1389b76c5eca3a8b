"""What tests of a cluster make, list and wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kubernetes import client

from tests.helpers.cluster.control_plane import ControlPlane
from vita_train.launch.kubernetes.pytorchjob import PyTorchJobs
from vita_train.launch.kubernetes.workflow import WORKFLOWS


def make_workflow(
    control_plane: ControlPlane,
    namespace: str,
    name: str,
    *,
    spec: dict[str, Any] | None = None,
    **status: str,
) -> None:
    """Create a Workflow, as Kubeflow Pipelines would."""
    client.CustomObjectsApi(control_plane.api).create_namespaced_custom_object(
        WORKFLOWS.group,
        WORKFLOWS.version,
        namespace,
        WORKFLOWS.plural,
        {
            "apiVersion": WORKFLOWS.api_version,
            "kind": WORKFLOWS.kind,
            "metadata": {"name": name},
            "spec": spec or {},
            "status": status,
        },
    )


def until(is_done: Callable[[], object], *, seconds: float = 60) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.2)


def jobs_of(control_plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    """Return the PyTorchJobs of a namespace."""
    job = PyTorchJobs.resource
    found = client.CustomObjectsApi(control_plane.api).list_namespaced_custom_object(
        job.group, job.version, namespace, job.plural
    )
    return list(found["items"])
