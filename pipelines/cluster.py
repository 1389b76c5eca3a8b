"""What every step needs on a cluster where the chart is installed. kfp.local passes over it.

``pipelines/compile.py --prefix`` and ``--s3-secret`` name what the chart was installed with. Where
the chart's settings can be read, as in the pod that uploads the pipelines, their volumes and pods
of steps are compiled in, under the recipe's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from kfp import dsl, kubernetes

from vita_train.recipe.platform import (
    FOLDER,
    POD,
    S3_KEYS,
    S3_SETTINGS,
    WORKFLOW,
    Platform,
    load_platform,
    merge_pod_settings,
    merge_step_pods,
)
from vita_train.recipe.pod import PodSettings, StepPod
from vita_train.recipe.schema import Recipe

#: The chart's ``prefix``.
PREFIX = os.environ.get("VITA_TRAIN_PREFIX", "vita")
#: Secret with the keys of the object store; workload identity needs none.
S3_SECRET = os.environ.get("VITA_TRAIN_S3_SECRET", f"{PREFIX}-s3")


def on_cluster(task: dsl.PipelineTask, recipe: Recipe, step: str) -> dsl.PipelineTask:
    """Give a task the platform's settings, the keys of the object store, and the names of its own
    pod and Workflow; one that does not start a training job also its pod and the volumes."""
    settings = f"{PREFIX}-platform"
    # Optional, so that a step without the chart says so in its log instead of never starting.
    kubernetes.use_config_map_as_volume(task, settings, mount_path=str(FOLDER), optional=True)
    kubernetes.use_config_map_as_env(
        task, settings, {name: name for name in S3_SETTINGS}, optional=True
    )
    kubernetes.use_secret_as_env(task, S3_SECRET, {name: name for name in S3_KEYS}, optional=True)
    kubernetes.use_field_path_as_env(
        task, WORKFLOW, "metadata.labels['workflows.argoproj.io/workflow']"
    )
    kubernetes.use_field_path_as_env(task, POD, "metadata.name")
    if step not in recipe.stages:
        own, platform = recipe.launch.settings.kubernetes, load_platform() or Platform()
        _mount(task, merge_pod_settings(platform.pod, [own.pod]))
        _place(task, merge_step_pods(step, [platform.steps, own.steps]))
    return task


def _place(task: dsl.PipelineTask, pod: StepPod) -> None:
    if pod.cpu:
        task.set_cpu_limit(pod.cpu)
    if pod.memory:
        task.set_memory_limit(pod.memory)
    if pod.gpus:
        task.set_accelerator_type(pod.gpu_resource).set_accelerator_limit(pod.gpus)
    for label, value in pod.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in pod.tolerations:
        kubernetes.add_toleration(
            task,
            toleration.key or None,
            toleration.operator,
            toleration.value or None,
            toleration.effect or None,
            toleration.tolerationSeconds,
        )


def _mount(task: dsl.PipelineTask, pod: PodSettings) -> None:
    """Mount the volumes of training pods whose kind Kubeflow Pipelines knows."""
    for volume, mount in _mounted(pod):
        at = str(mount["mountPath"])
        if claim := volume.get("persistentVolumeClaim"):
            kubernetes.mount_pvc(task, claim["claimName"], at, str(mount.get("subPath", "")))
        elif secret := volume.get("secret"):
            kubernetes.use_secret_as_volume(task, secret["secretName"], at)
        elif config := volume.get("configMap"):
            kubernetes.use_config_map_as_volume(task, config["name"], at)
        elif "emptyDir" not in volume:  # what nothing was written to holds no data
            kind = next(key for key in volume if key != "name")
            print(
                f"warning: volume {volume['name']} ({kind}) reaches training pods alone; Kubeflow "
                f"Pipelines mounts claims, Secrets and ConfigMaps",
                file=sys.stderr,
            )


def _mounted(pod: PodSettings) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    volumes = {volume["name"]: volume for volume in pod.volumes}
    for mount in pod.volume_mounts:
        if mount.get("name") in volumes:
            yield volumes[mount["name"]], mount
