"""Running helm on the chart, and reading what it makes."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.processes import HOME, missing
from tests.helpers.cluster.waiting import jobs_of, make_workflow, until
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.job import TrainingJob
from vita_train.launch.kubernetes.pytorchjob import PyTorchJobs
from vita_train.launch.kubernetes.trainjob import TrainJobs
from vita_train.recipe.platform import Platform, load_platform

CHART = Path(__file__).parents[3] / "charts" / "vita-training"
VALUES = sorted((CHART / "ci").glob("*.yaml"))

Objects = dict[tuple[str, str], dict[str, Any]]
"""What helm made, by kind and name."""


def helm(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run helm, or skip the test where it is not built; with ``check=False`` it may fail."""
    if why := missing(("helm",)):
        pytest.skip(why)
    # Nothing of this user's own: no kubeconfig, and no memory of what another cluster served.
    with tempfile.TemporaryDirectory(prefix="helm-") as home:
        done = subprocess.run(
            [HOME / "bin" / "helm", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={"HOME": home, "KUBECONFIG": "/dev/null"},
            timeout=120,
        )
    assert done.returncode == 0 or not check, done.stderr + done.stdout
    assert "unknown field" not in done.stderr, (
        done.stderr
    )  # helm only warns of what the API server drops
    return done


def objects_of(text: str) -> Objects:
    """Read manifests; no two may have the same kind and name."""
    found = [one for one in yaml.safe_load_all(text) if one]
    result = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(result) == len(found)
    return result


def platform_of(objects: Objects, folder: Path) -> Platform:
    """Read the ConfigMap as the launcher does."""
    (found,) = (
        one
        for (kind, _), one in objects.items()
        if kind == "ConfigMap" and "platform.yaml" in one["data"]
    )
    path = folder / "platform.yaml"
    path.write_text(found["data"]["platform.yaml"])
    platform = load_platform(str(path))
    assert platform is not None
    return platform


def job_of(platform: Platform, code: str = "") -> TrainingJob:
    """Return a job of two nodes as the launcher would make it from the chart's settings."""
    return TrainingJob(
        name="vita-1-1-chart",
        namespace=platform.namespace,
        run="chart",
        stage="1.1",
        nodes=2,
        nproc=1,
        image=platform.image,
        command=("python", "-c", code),
        pod=platform.pod,
        platform=platform,
    )


def janitor_of(control_plane: ControlPlane, namespace: str) -> dict[str, Any]:
    """Return what the CronJob of the janitor makes its Jobs of."""
    cron = client.BatchV1Api(control_plane.api).read_namespaced_cron_job("vita-janitor", namespace)
    return dict(control_plane.api.sanitize_for_serialization(cron.spec.job_template.spec))


def janitor_removes(
    control_plane: ControlPlane, namespace: str, platform: Platform, launcher: Cluster
) -> str:
    """Let the janitor find a job of a Workflow that is over; return what it said once both it and
    the job are gone."""
    make_workflow(
        control_plane, namespace, "over", phase="Failed", finishedAt="2020-01-01T00:00:00Z"
    )
    forever = replace(job_of(platform, "import time; time.sleep(600)"), workflow="over")
    launcher.create(PyTorchJobs.resource, PyTorchJobs().manifest(forever))
    batch, core = client.BatchV1Api(control_plane.api), client.CoreV1Api(control_plane.api)
    batch.create_namespaced_job(
        namespace, {"metadata": {"name": "now"}, "spec": janitor_of(control_plane, namespace)}
    )
    until(lambda: batch.read_namespaced_job("now", namespace).status.completion_time)
    until(lambda: jobs_of(control_plane, namespace) == [])
    (pod,) = core.list_namespaced_pod(namespace, label_selector="job-name=now").items
    said = str(core.read_namespaced_pod_log(pod.metadata.name, namespace))
    assert f"job {forever.name}: its Workflow over is over; deleted" in said
    return said


def assert_within(given: Any, found: Any) -> None:
    """Everything given is there; what was added beside it, such as defaults, does not count."""
    if isinstance(given, dict):
        for key, value in given.items():
            assert_within(value, found[key])
    elif isinstance(given, list):
        for one, other in zip(given, found, strict=True):
            assert_within(one, other)
    else:
        assert given == found


def assert_fits(job: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
    """A TrainJob's patches join what the runtime names; what they do not name would be refused."""
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    (patched,) = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"][
        "replicatedJobs"
    ]
    (stated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert patched["name"] == stated["name"]
    names = [
        [one["name"] for one in job["template"]["spec"]["template"]["spec"]["containers"]]
        for job in (patched, stated)
    ]
    assert names[0] == names[1] == [TrainJobs.container]
