"""One control plane for all tests of this folder; a node whose pods are processes; a namespace for
each test."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster.control_plane import PROGRAMS, ControlPlane, minimal_definition
from tests.helpers.cluster.kubelet import Kubelet
from tests.helpers.cluster.processes import missing
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.workflow import WORKFLOWS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not item.get_closest_marker("node"):
            item.add_marker(pytest.mark.cluster)
    # The longest first: another process does all the others meanwhile, with a control plane of its
    # own.
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
def node(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubelet]:
    """A node that runs pods as processes."""
    kubelet = Kubelet(
        control_plane.api,
        "node-a",
        tmp_path_factory.mktemp("node-a"),
        kubeconfig_of=control_plane.kubeconfig_of,
    )
    try:
        yield kubelet
    finally:
        kubelet.stop()


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A fresh namespace."""
    name = (
        urllib.parse.quote(request.node.originalname or "t")
        .replace("_", "-")
        .lower()[:40]
        .strip("-")
    )
    return control_plane.namespace(f"{name}-{time.time_ns() % 10**6}")


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Cluster:
    """The launcher's own view of the API."""
    return Cluster(control_plane.api, outage=60)


@pytest.fixture(scope="module")
def workflows(control_plane: ControlPlane) -> Iterator[None]:
    """The API serves Workflows."""
    with control_plane.serving(
        minimal_definition(WORKFLOWS.group, WORKFLOWS.version, WORKFLOWS.kind)
    ):
        yield
