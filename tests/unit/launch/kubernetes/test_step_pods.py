"""Pods of a step beside each other: what each gets, and when there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vita_train.launch.kubernetes.indexedjob import IndexedJobs
from vita_train.launch.kubernetes.job import TrainingJob
from vita_train.launch.kubernetes.state import Phase
from vita_train.launch.kubernetes.step_pods import pod_settings
from vita_train.pipeline.fan_out import pods_of
from vita_train.recipe.load import load_recipe
from vita_train.recipe.platform import PLATFORM, Platform
from vita_train.recipe.pod import PodSettings, StepPod
from vita_train.runs.run import Run

PODS = StepPod.model_validate(
    {"pods": 5, "cpu": "16", "tolerations": [{"key": "cpu", "operator": "Exists"}]}
)


def run_of(*settings: str) -> Run:
    return Run(load_recipe("smoke", ["storage.root=s3://b/runs", *settings]), "r")


def job(queue: str = "") -> TrainingJob:
    platform = Platform.model_validate(
        {
            "image": "trainer@sha256:0",
            "queue": {"name": queue},
            "pod": {
                "devices": {"rdma/hca": 8},
                "node_selector": {"pool": "gpu"},
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "big"}}],
                "volume_mounts": [{"name": "data", "mountPath": "/data"}],
                "metrics_port": 9000,
            },
        }
    )
    settings: PodSettings = pod_settings(platform, run_of(), PODS)
    return TrainingJob(
        "n", "team", "r", "prepare", platform.image, ("python",), PODS.pods, 1, settings, platform
    )


def test_pods_are_numbered_have_no_gpu_and_see_the_data() -> None:
    spec = IndexedJobs().manifest(job())["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 5, 5)
    assert not spec["suspend"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert container["resources"]["limits"]["cpu"] == "16"
    assert "ports" not in container
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    assert pod["restartPolicy"] == "Never"
    assert {"key": "cpu", "operator": "Exists"} in pod["tolerations"]
    assert IndexedJobs().manifest(job("team"))["spec"]["suspend"], "Kueue lets it go"


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ({}, Phase.PENDING),
        ({"active": 2}, Phase.RUNNING),
        ({"active": 0, "conditions": [{"type": "Complete", "status": "True"}]}, Phase.SUCCEEDED),
        ({"active": 1, "conditions": [{"type": "FailureTarget", "status": "True"}]}, Phase.RUNNING),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, Phase.FAILED),
    ],
)
def test_the_state_is_read_from_conditions_and_counts(status: dict[str, Any], phase: Phase) -> None:
    assert IndexedJobs().state({"spec": {}, "status": status}).phase == phase


def test_a_preparation_is_shared_out_on_a_cluster_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = "launch.settings.kubernetes.steps={prepare: {pods: 4}}"
    assert pods_of(run_of(several)) is None, "there is no cluster"
    platform = tmp_path / "platform.yaml"
    monkeypatch.setenv(PLATFORM, str(platform))
    platform.write_text(yaml.safe_dump({"steps": {"prepare": {"memory": "8Gi"}}}))
    found = pods_of(run_of(several))
    assert found is not None
    assert (found.pods, found.memory) == (4, "8Gi")
    assert pods_of(run_of()) is None
    assert pods_of(Run(load_recipe("smoke", [several]), "r")) is None, "others do not see the run"
    platform.write_text(yaml.safe_dump({"backend": "local"}))
    assert pods_of(run_of(several)) is None
