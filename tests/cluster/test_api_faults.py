"""Faults of the Kubernetes API while a job runs: the run ends well and nothing is done twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client

from tests.cluster.test_launcher import launch, small_job
from tests.helpers.cluster.api_faults import ApiProxy
from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.waiting import jobs_of, until
from vita_train.launch.kubernetes.api import Cluster

JOB, POD = r"/pytorchjobs(/|\?|$)", r"/pods(\?|$)"


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    """Stands between the launcher and the API server."""
    made = ApiProxy(control_plane.server, str(control_plane.authority))
    yield made
    made.stop()


def _through(proxy: ApiProxy, control_plane: ControlPlane, outage: float) -> Cluster:
    settings = client.Configuration(host=proxy.url)
    settings.api_key = dict(control_plane.settings("admin").api_key)
    return Cluster(client.ApiClient(settings), outage=outage)


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("match", "kind", "times"),
    [
        (f"POST .*{JOB}", "429", 2),
        (f"POST .*{JOB}", "500", 2),
        (f"POST .*{JOB}", "lost", 1),
        (f"POST .*{JOB}", "409", 1),
        (f"GET .*{JOB}.*watch=1", "gone", 3),
        (f"GET .*{POD}.*watch=1", "500", 3),
        (f"GET .*{POD}", "half", 2),
        (f"GET .*{POD}", "500", 6),
        ("GET .*/log", "500", 2),
        ("GET .*/log", "500", 6),
        (f"DELETE .*{JOB}", "lost", 1),
        (f"DELETE .*{JOB}", "429", 2),
    ],
)
def test_a_fault_costs_nothing_and_doubles_nothing(
    proxy: ApiProxy,
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    match: str,
    kind: str,
    times: int,
) -> None:
    code = (
        f"import os, pathlib, time; (pathlib.Path({str(tmp_path)!r}) / str(os.getpid())).touch(); "
        f"time.sleep(2)\n"
        "print('line of', os.environ['PET_NODE_RANK'])"
    )
    proxy.spoil(match, kind, times)
    lines = launch(_through(proxy, control_plane, 60), small_job(namespace, code))
    assert proxy.spoilt == times
    assert lines.count("line of 0") == 1
    assert len(list(tmp_path.iterdir())) == 2, "two pods ran, once each"
    until(
        lambda: jobs_of(control_plane, namespace) == [], seconds=180
    )  # the garbage collector may be late


@pytest.mark.usefixtures("node")
def test_an_api_that_stays_away_for_a_minute_does_not_cost_the_job(
    proxy: ApiProxy, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    code = (
        f"import os, pathlib, time; (pathlib.Path({str(tmp_path)!r}) / str(os.getpid())).touch(); "
        f"time.sleep(20)\n"
        "print('done')"
    )

    def vanish() -> None:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        proxy.vanish(60)

    outage = threading.Thread(target=vanish)
    outage.start()
    lines = launch(_through(proxy, control_plane, 180), small_job(namespace, code))
    outage.join()
    assert lines.count("done") == 1
    assert len(list(tmp_path.iterdir())) == 2
    until(
        lambda: jobs_of(control_plane, namespace) == [], seconds=180
    )  # the garbage collector may be late
