"""What a cluster is like for training jobs: set once by whoever installs the chart, not by each
recipe.

The chart puts it into a ConfigMap, which the pipelines mount; ``VITA_TRAIN_PLATFORM`` names another
file. A recipe's ``launch.settings.kubernetes.pod`` and the settings of a KFP task are laid over its
``pod``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from vita_train.errors import RecipeError, UserError
from vita_train.recipe.base import OptionalCount, Seconds, Strict
from vita_train.recipe.pod import PodSettings, StepPod, StepPods
from vita_train.recipe.validation import validated
from vita_train.recipe.yaml_tree import parse_yaml

#: Environment variable that names the platform's file.
PLATFORM = "VITA_TRAIN_PLATFORM"
#: Where the pipelines mount the chart's ConfigMap.
FOLDER = Path("/etc/vita-train")
#: Environment variable with the name of the pod that a pipeline's step runs in.
POD = "VITA_TRAIN_POD"
#: Environment variable with the name of the Argo Workflow that a pipeline's step belongs to.
WORKFLOW = "VITA_TRAIN_WORKFLOW"
#: Environment variable of training pods: seconds between SIGTERM and SIGKILL.
GRACE = "VITA_TRAIN_GRACE"
#: Variables of the object store that a step takes from the chart's ConfigMap and Secret, where they
#: have them.
S3_SETTINGS = ("AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION")
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class QueueSpec(Strict):
    """Kueue, where the cluster has it."""

    name: str = ""
    """LocalQueue that admits the jobs; empty starts them at once."""
    priority: str = ""
    """WorkloadPriorityClass of the jobs."""


class TimeSpec(Strict):
    """Clocks the launcher keeps; the jobs' own cannot be relied on (waiting counts there, or
    nothing re-queues them)."""

    queue: Seconds = 7 * 86400.0
    """Seconds a job may wait for all its pods to run."""
    run: Seconds = 14 * 86400.0
    """Seconds a job may run, restarts included, waiting not."""
    start: Seconds = 180.0
    """Seconds a pod may be unable to start (image, missing Secret) before that counts as final."""
    outage: Seconds = 600.0
    """Seconds the Kubernetes API may stay away before the launcher gives up."""


class Platform(Strict):
    """Defaults for every training job of a namespace."""

    backend: Literal["auto", "pytorchjob", "trainjob", "local"] = "auto"
    """auto takes TrainJob where the cluster serves it, else PyTorchJob."""
    namespace: str = ""
    """Namespace of the jobs; empty takes the launcher's own."""
    store: str = ""
    """Where runs lie that do not say where, such as s3://bucket/runs."""
    image: str = ""
    """Image of the training pods, by digest."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    runtime: str = "vita-torchrun"
    """TrainingRuntime the chart installed, for TrainJob."""
    queue: QueueSpec = QueueSpec()
    times: TimeSpec = TimeSpec()
    restart_policy: Literal["Never", "OnFailure", "ExitCode"] = "Never"
    """What a PyTorchJob does about a failed pod. Never: the launcher starts the whole job again,
    which is the only one that restarts all pods together. OnFailure and ExitCode: the kubelet or
    the operator restarts single pods."""
    preemptions: OptionalCount = 20
    """Times a job may be preempted before that counts as a failure; they do not use up
    ``launch.restarts``."""
    pod: PodSettings = PodSettings()
    steps: StepPods = {}
    """Pods of the steps that do not train, as a recipe states them. Pipelines are compiled with
    them."""


def load_platform(path: str | None = None) -> Platform | None:
    """Return the cluster's settings, or None where there is no cluster.

    Args:
        path: file; none takes the one ``VITA_TRAIN_PLATFORM`` names, else the one that the
            pipelines mount.

    Raises:
        RecipeError: the file cannot be read or is wrong somewhere; each problem with its line.
    """
    mounted = FOLDER / "platform.yaml"
    named = path or os.environ.get(PLATFORM) or (str(mounted) if mounted.exists() else "")
    if not named:
        return None
    try:
        text = Path(named).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            "the platform's settings cannot be read",
            code="VT-RECIPE-039",
            where=named,
            remedy=f"mount the chart's ConfigMap there, or unset {PLATFORM}",
        ) from error
    tree = parse_yaml(text, named)
    tree.value = tree.value or {}
    return validated(Platform, tree)


def needed_platform(what: str, where: str) -> Platform:
    """Return the cluster's settings for something that cannot do without.

    Args:
        what: wants them, as a clause.
        where: it was asked for.

    Raises:
        UserError: there are none.
        RecipeError: as `load_platform`.
    """
    platform = load_platform()
    if platform is None:
        raise UserError(
            f"{what}, but nothing says what the cluster is like",
            code="VT-USE-090",
            where=where,
            remedy="install the chart vita-training into this namespace, with the prefix that the "
            f"pipeline was compiled for, or let {PLATFORM} name a file of settings",
        )
    return platform


def merge_step_pods(step: str, layers: Iterable[StepPods]) -> StepPod:
    """Return what a step's pod gets: of each layer what it states for all steps, then for this
    one."""
    stated: dict[str, Any] = {}
    for layer in layers:
        for name in ("all", step):
            if pod := layer.get(name):  # type: ignore[call-overload]
                # Only what a layer states: its defaults must not undo an earlier one
                stated |= {field: getattr(pod, field) for field in pod.model_fields_set}
    return StepPod.model_validate(stated)


def merge_pod_settings(base: PodSettings, layers: Iterable[PodSettings]) -> PodSettings:
    """Return pod settings with others laid over them, in order.

    What a layer states replaces what was there; mappings are joined key by key, and lists are added
    to.
    """
    result = base
    for layer in layers:
        changes: dict[str, Any] = {}
        for name in layer.model_fields_set:
            old, new = getattr(result, name), getattr(layer, name)
            if isinstance(new, dict) and name not in PodSettings.REPLACED:
                new = {**old, **new}
            elif isinstance(new, tuple):
                new = (*old, *(item for item in new if item not in old))
            changes[name] = new
        result = result.model_copy(update=changes)
    return result
