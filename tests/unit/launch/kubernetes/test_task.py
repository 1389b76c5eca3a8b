"""What is set on a KFP task reaches the pods of its job, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import TaskConfig

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError, UserError
from vita_train.launch.kubernetes.task import task_settings
from vita_train.launch.stage import launch_stage
from vita_train.recipe.load import load_recipe
from vita_train.recipe.platform import POD, Platform, merge_pod_settings
from vita_train.recipe.pod import PodSettings, SecretKey
from vita_train.runs.run import Run

#: Variables as the backend states those that every step of our pipelines gets.
OWN = [
    {"name": POD, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    {
        "name": "AWS_DEFAULT_REGION",
        "valueFrom": {
            "configMapKeyRef": {
                "name": "vita-platform",
                "key": "AWS_DEFAULT_REGION",
                "optional": True,
            }
        },
    },
    {
        "name": "AWS_ACCESS_KEY_ID",
        "valueFrom": {
            "secretKeyRef": {"name": "vita-s3", "key": "AWS_ACCESS_KEY_ID", "optional": True}
        },
    },
]
PLATFORM_VOLUME = {
    "name": "vita-platform",
    "configMap": {"name": "vita-platform", "optional": True},
}
PLATFORM_MOUNT = {"name": "vita-platform", "mountPath": "/etc/vita-train"}


def _settings(nproc: int = 8, **fields: Any) -> PodSettings | None:
    return task_settings(TaskConfig(**fields), nproc)


def test_a_task_that_says_nothing_leaves_the_platform_as_it_is() -> None:
    assert task_settings(None, 8) is None
    assert _settings() is None
    assert _settings(env=OWN, volumes=[PLATFORM_VOLUME], volume_mounts=[PLATFORM_MOUNT]) is None


def test_settings_of_a_task_are_laid_over_the_platforms() -> None:
    settings = _settings(
        resources={
            "requests": {"cpu": "30", "memory": "200Gi"},
            "limits": {"cpu": "32", "nvidia.com/gpu": "8", "rdma/hca": "4"},
        },
        env=[
            *OWN,
            {"name": "NCCL_DEBUG", "value": "INFO"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        ],
        volumes=[PLATFORM_VOLUME, {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        volume_mounts=[PLATFORM_MOUNT, {"name": "data", "mountPath": "/data"}],
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        node_selector={"pool": "h100"},
        affinity={"nodeAffinity": {}},
    )
    assert settings is not None
    platform = Platform(
        pod=PodSettings(
            env={"NCCL_DEBUG": "WARN", "A": "b"}, node_selector={"zone": "x"}, shm="64Gi"
        )
    )
    pod = merge_pod_settings(platform.pod, [settings])
    assert (pod.cpu, pod.memory, pod.shm) == ("32", "200Gi", "64Gi")
    assert (pod.gpu_resource, pod.devices) == ("nvidia.com/gpu", {"rdma/hca": 4})
    assert pod.env == {"NCCL_DEBUG": "INFO", "A": "b"}
    assert pod.secret_env == {"TOKEN": SecretKey(secret="hub", key="token")}
    assert pod.volumes == ({"name": "data", "persistentVolumeClaim": {"claimName": "data"}},)
    assert pod.volume_mounts == ({"name": "data", "mountPath": "/data"},)
    assert pod.node_selector == {"zone": "x", "pool": "h100"}
    assert pod.tolerations == ({"key": "gpu", "operator": "Exists"},)
    assert pod.affinity == {"nodeAffinity": {}}


@pytest.mark.parametrize(
    ("fields", "nproc", "code", "fact"),
    [
        (
            {"resources": {"limits": {"nvidia.com/gpu": "4"}}},
            8,
            "VT-RECIPE-013",
            "4 nvidia.com/gpu",
        ),
        (
            {"resources": {"limits": {"ephemeral-storage": "10Gi"}}},
            1,
            "VT-RECIPE-012",
            "ephemeral-storage",
        ),
        (
            {"env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
            1,
            "VT-RECIPE-014",
            "NODE",
        ),
    ],
)
def test_what_a_jobs_pods_cannot_have_is_refused(
    fields: dict[str, Any], nproc: int, code: str, fact: str
) -> None:
    with raises_code(RecipeError, code, fact):
        _settings(nproc, **fields)


def test_a_step_in_a_pod_does_not_train_there_when_the_chart_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(POD, "ladder-abc-impl-1")
    with raises_code(UserError, "VT-USE-090") as refused:
        launch_stage(
            Run(load_recipe("smoke", [f"storage.root={tmp_path}"]), "r"), "0.llm", "0" * 64
        )
    assert "install the chart" in str(refused.value.remedy)
