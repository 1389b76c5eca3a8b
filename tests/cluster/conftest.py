"""One control plane for all tests of this folder; a node whose pods are processes; a namespace for each test."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import PROGRAMS, ControlPlane, stand_in
from kubelet import Kubelet
from kubernetes import client
from processes import missing

from vita_train.launch.cluster.api import Cluster
from vita_train.launch.cluster.pytorchjob import PyTorchJobs
from vita_train.launch.cluster.workflow import WORKFLOWS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not item.get_closest_marker("node"):
            item.add_marker(pytest.mark.cluster)
    # The longest first: another process does all the others meanwhile, with a control plane of its own.
    items.sort(key=lambda item: item.path.name != "test_training.py")


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running cluster, or a skip that says how to build one."""
    if why := missing(PROGRAMS):
        pytest.skip(why)
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def node(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A node that runs pods as processes."""
    kubelet = Kubelet(control_plane.api, "node-a", tmp_path_factory.mktemp("node-a"),
                      kubeconfig_of=control_plane.kubeconfig_of)
    try:
        yield kubelet
    finally:
        kubelet.stop()


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A fresh namespace."""
    name = urllib.parse.quote(request.node.originalname or "t").replace("_", "-").lower()[:40].strip("-")
    return control_plane.namespace(f"{name}-{time.time_ns() % 10**6}")


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Cluster:
    """The launcher's own view of the API."""
    return Cluster(control_plane.api, outage=60)


@pytest.fixture(scope="module")
def workflows(control_plane: ControlPlane) -> Iterator[None]:
    """The API serves Workflows."""
    with control_plane.serving(stand_in(WORKFLOWS.group, WORKFLOWS.version, WORKFLOWS.kind)):
        yield


def make_workflow(control_plane: ControlPlane, namespace: str, name: str, **status: str) -> None:
    """Create a Workflow, as Kubeflow Pipelines would."""
    client.CustomObjectsApi(control_plane.api).create_namespaced_custom_object(
        WORKFLOWS.group, WORKFLOWS.version, namespace, WORKFLOWS.plural,
        {"apiVersion": WORKFLOWS.api_version, "kind": WORKFLOWS.kind, "metadata": {"name": name}, "status": status})


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
        job.group, job.version, namespace, job.plural)
    return list(found["items"])
