"""Jobs that nobody waits for are deleted, all others are left alone."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.waiting import jobs_of, make_workflow, until
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.janitor import JobRetention, collect_garbage
from vita_train.launch.kubernetes.job import TrainingJob
from vita_train.launch.kubernetes.pytorchjob import PyTorchJobs
from vita_train.recipe.platform import Platform
from vita_train.recipe.pod import PodSettings

JOBS = PyTorchJobs()
NOW = JobRetention(workflow=0, terminated=0, over=0)


def _job(cluster: Cluster, namespace: str, name: str, code: str, workflow: str = "") -> None:
    job = TrainingJob(
        name=name,
        namespace=namespace,
        run="r",
        stage="1.1",
        image="this-machine",
        nodes=1,
        nproc=1,
        command=("python", "-c", code),
        platform=Platform(image="this-machine"),
        workflow=workflow,
        pod=PodSettings(
            gpu_resource="", cpu="100m", memory="1Gi", shm="64Mi", scratch="64Mi", grace=30
        ),
    )
    cluster.create(JOBS.resource, JOBS.manifest(job))


def _collect(
    cluster: Cluster, namespace: str, patience: JobRetention, *, dry_run: bool = False
) -> list[str]:
    lines: list[str] = []
    number = collect_garbage(
        cluster, [JOBS], namespace, namespace, patience, out=lines.append, dry_run=dry_run
    )
    assert number == len(lines)
    return lines


@pytest.mark.usefixtures("node", "workflows")
def test_jobs_nobody_waits_for_go(
    cluster: Cluster, namespace: str, control_plane: ControlPlane
) -> None:
    def names() -> list[str]:
        return sorted(str(job["metadata"]["name"]) for job in jobs_of(control_plane, namespace))

    make_workflow(
        control_plane, namespace, "over", phase="Failed", finishedAt="2020-01-01T00:00:00Z"
    )
    make_workflow(control_plane, namespace, "on", phase="Running")
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 120))
    make_workflow(control_plane, namespace, "ended", phase="Failed", finishedAt=moment)
    make_workflow(
        control_plane,
        namespace,
        "stopped",
        spec={"activeDeadlineSeconds": 0},
        phase="Failed",
        finishedAt=moment,
    )
    forever = "import time; time.sleep(600)"
    _job(cluster, namespace, "left-by-over", forever, workflow="over")
    _job(cluster, namespace, "left-by-gone", forever, workflow="gone")
    _job(cluster, namespace, "left-by-stopped", forever, workflow="stopped")
    _job(cluster, namespace, "of-ended", forever, workflow="ended")  # it may be retried
    _job(cluster, namespace, "of-on", forever, workflow="on")
    _job(cluster, namespace, "of-a-shell", forever)
    _job(cluster, namespace, "done", "pass")
    until(
        lambda: (
            JOBS.state(cluster.read(JOBS.resource, namespace, "done") or {"spec": {}}).phase.over
        )
    )
    every = names()
    # A job of a Workflow that is gone is left alone while it is young: the Workflow may have gone
    # this moment.
    assert [
        line.split(":")[0] for line in _collect(cluster, namespace, JobRetention(3600, 60, 3600))
    ] == ["job left-by-over", "job left-by-stopped"]
    until(lambda: not {"left-by-over", "left-by-stopped"} & set(names()))
    rehearsed = _collect(cluster, namespace, NOW, dry_run=True)
    assert names() == [name for name in every if name not in ("left-by-over", "left-by-stopped")]
    assert rehearsed == [
        "job done: it ended and nobody deleted it; it would be deleted",
        "job left-by-gone: its Workflow gone is gone; it would be deleted",
        "job of-ended: its Workflow ended is over; it would be deleted",
    ]
    _collect(cluster, namespace, replace(NOW, over=3600))
    until(lambda: names() == ["done", "of-a-shell", "of-on"])
    _collect(cluster, namespace, NOW)
    until(lambda: names() == ["of-a-shell", "of-on"])
