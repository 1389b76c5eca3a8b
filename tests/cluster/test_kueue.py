"""Jobs in a queue of a real Kueue: admitted in turn, preempted, admitted again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from kubernetes import client

from tests.cluster.test_launcher import JOBS, small_job
from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.kueue import Kueue
from tests.helpers.cluster.processes import missing
from tests.helpers.cluster.waiting import until
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.launcher import Launcher
from vita_train.recipe.platform import QueueSpec


@pytest.fixture(scope="module")
def kueue(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kueue]:
    """Kueue with two classes of priority."""
    if why := missing(["kueue"]):
        pytest.skip(why)
    found = Kueue(control_plane, tmp_path_factory.mktemp("kueue"))
    try:
        found.make("WorkloadPriorityClass", "urgent", {"value": 1000})
        found.make("WorkloadPriorityClass", "patient", {"value": 10})
        yield found
    finally:
        found.stop()


@dataclass
class Follower:
    """A launcher that follows a job in a thread."""

    launcher: Launcher
    lines: list[str]
    ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Follower:
        """Begin; `ended` is set where the job succeeds."""
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def _run(self) -> None:
        self.launcher.run()
        self.ended.set()


def _follow(cluster: Cluster, namespace: str, name: str, priority: str, code: str) -> Follower:
    job = small_job(namespace, code, nodes=1)
    platform = job.platform.model_copy(update={"queue": QueueSpec(name="team", priority=priority)})
    lines: list[str] = []
    job = replace(job, name=name, platform=platform)
    return Follower(Launcher(cluster, JOBS, job, None, restarts=0, out=lines.append), lines).start()


def _running(control_plane: ControlPlane, namespace: str) -> set[str]:
    pods = client.CoreV1Api(control_plane.api).list_namespaced_pod(namespace).items
    return {pod.metadata.name.rsplit("-", 2)[0] for pod in pods if pod.status.phase == "Running"}


@pytest.mark.usefixtures("node")
def test_a_job_is_preempted_by_a_more_urgent_one_and_goes_on_without_a_restart(
    cluster: Cluster, namespace: str, control_plane: ControlPlane, kueue: Kueue, tmp_path: Path
) -> None:
    kueue.make_queue("team", namespace, cpu="150m")  # a pod asks for 100m

    def code(who: str) -> str:
        return (
            f"import os, pathlib, time; here = pathlib.Path({str(tmp_path)!r})\n"
            f"(here / f'{who}.{{os.getpid()}}').touch()\n"
            f"while not (here / 'end-{who}').exists(): time.sleep(0.1)"
        )

    patient = _follow(cluster, namespace, "patient", "patient", code("patient"))
    until(lambda: len(list(tmp_path.glob("patient.*"))) == 1)
    urgent = _follow(cluster, namespace, "urgent", "urgent", code("urgent"))
    until(lambda: len(list(tmp_path.glob("urgent.*"))) == 1)
    until(lambda: _running(control_plane, namespace) == {"urgent"})
    assert not patient.ended.is_set()

    (tmp_path / "end-urgent").touch()
    assert urgent.ended.wait(60)
    # Kueue counts a job's room as taken until its object says that it ended, or is gone.
    until(lambda: len(list(tmp_path.glob("patient.*"))) == 2)
    (tmp_path / "end-patient").touch()
    assert patient.ended.wait(60)
    assert sum(line.endswith("suspended") for line in patient.lines) == 2, patient.lines
    for follower in (patient, urgent):
        follower.launcher.delete(wait=True)
