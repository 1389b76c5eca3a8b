"""The launcher with a TrainJob: object and API are real, what Trainer would do about it is played
by the test.

Trainer's controllers need admission webhooks and JobSet beside them. The definitions are the
published ones, and the statuses played here are those that Trainer v2.3.0 was seen to give.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from tests.cluster.test_launcher import small_job
from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.waiting import until
from tests.helpers.definitions import trainer_definition
from vita_train.errors import VitaError
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.job import TrainingJob
from vita_train.launch.kubernetes.launcher import Launcher
from vita_train.launch.kubernetes.trainjob import TrainJobs

JOBS = TrainJobs()


@pytest.fixture(scope="module", autouse=True)
def trainer(control_plane: ControlPlane) -> Iterator[None]:
    """The API serves TrainJobs."""
    with control_plane.serving(trainer_definition("trainjobs")):
        yield


class Trainer(threading.Thread):
    """Plays Trainer and JobSet for one job: a pod for its node, and the job's status by the pod's
    end."""

    def __init__(self, control_plane: ControlPlane, job: TrainingJob) -> None:
        super().__init__(daemon=True)
        self._core = client.CoreV1Api(control_plane.api)
        self._objects = client.CustomObjectsApi(control_plane.api)
        self._job = job

    def run(self) -> None:
        made: dict[str, Any] = {}
        until(lambda: made.update(self._found() or {}) or made)
        trainer = made["spec"]["trainer"]
        self._core.create_namespaced_pod(
            self._job.namespace,
            {
                "metadata": {
                    "name": f"{self._job.name}-node-0-0",
                    "labels": {
                        "jobset.sigs.k8s.io/jobset-name": self._job.name,
                        "batch.kubernetes.io/job-completion-index": "0",
                    },
                },
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": JOBS.container,
                            "image": trainer["image"],
                            "command": trainer["command"],
                        }
                    ],
                },
            },
        )
        self._say(
            {
                "jobsStatus": [
                    {
                        "name": "node",
                        "active": 1,
                        "ready": 1,
                        "succeeded": 0,
                        "failed": 0,
                        "suspended": 0,
                    }
                ]
            }
        )
        until(lambda: self._phase() in ("Succeeded", "Failed"))
        kind, reason = (
            ("Complete", "AllJobsCompleted")
            if self._phase() == "Succeeded"
            else ("Failed", "FailedJobs")
        )
        self._say(
            {
                "conditions": [
                    {
                        "type": kind,
                        "status": "True",
                        "reason": reason,
                        "message": "jobset it was",
                        "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    }
                ]
            }
        )

    def _found(self) -> dict[str, Any] | None:
        resource = JOBS.resource
        listed = self._objects.list_namespaced_custom_object(
            resource.group, resource.version, self._job.namespace, resource.plural
        )
        return next(iter(listed["items"]), None)

    def _phase(self) -> str:
        pods = self._core.list_namespaced_pod(self._job.namespace).items
        return str(pods[0].status.phase) if pods else ""

    def _say(self, status: dict[str, Any]) -> None:
        resource = JOBS.resource
        self._objects.patch_namespaced_custom_object_status(
            resource.group,
            resource.version,
            self._job.namespace,
            resource.plural,
            self._job.name,
            {"status": status},
        )


def _launch(control_plane: ControlPlane, job: TrainingJob) -> list[str]:
    lines: list[str] = []
    Trainer(control_plane, job).start()
    launcher = Launcher(
        Cluster(control_plane.api, outage=60), JOBS, job, None, restarts=0, out=lines.append
    )
    launcher.run()
    launcher.delete()
    return lines


@pytest.mark.usefixtures("node")
def test_a_trainjob_is_followed_to_its_end(control_plane: ControlPlane, namespace: str) -> None:
    job = small_job(namespace, "print('trained', flush=True)", nodes=1)
    lines = _launch(control_plane, job)
    assert "trained" in lines
    assert f"job {job.name}: running" in lines


@pytest.mark.usefixtures("node")
def test_a_failed_trainjob_is_told_by_what_its_pod_said(
    control_plane: ControlPlane, namespace: str
) -> None:
    job = small_job(namespace, "raise ValueError('shapes differ')", nodes=1)
    with pytest.raises(VitaError, match="CRASH") as caught:
        _launch(control_plane, job)
    assert "shapes differ" in str(caught.value)
