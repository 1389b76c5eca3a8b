"""What a KFP task was told about its pod, as settings of the job's pods.

A component with ``task_config_passthroughs`` receives resources, variables, volumes and placement
of its task instead of having them applied to its own pod, which only waits (kfp 2.17,
``dsl.TaskConfig``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_train.errors import RecipeError
from vita_train.recipe.platform import FOLDER, POD, S3_KEYS, S3_SETTINGS, WORKFLOW
from vita_train.recipe.pod import PodSettings

_WHERE = "the KFP task's settings"
#: Resources that a container has without a device plugin.
_PLAIN = ("cpu", "memory")


def task_settings(config: Any, nproc: int) -> PodSettings | None:
    """Return what a task's ``TaskConfig`` says about the pods of its job; None when it says
    nothing.

    Args:
        config: kfp's ``TaskConfig``, whose fields are pieces of a pod's JSON or None; None outside
            of a cluster.
        nproc: ranks of a pod, each of which takes one GPU.

    Raises:
        RecipeError: a setting that a job's pods cannot have, or GPUs that are not one for each
            rank.
    """
    if config is None:
        return None
    stated = {**_resources(config.resources or {}, nproc), **_environment(config.env or [])}
    # The launcher's own folder is of no use in the job's pods
    mounts = [mount for mount in config.volume_mounts or [] if mount["mountPath"] != str(FOLDER)]
    mounted = {mount["name"] for mount in mounts}
    placed = {
        "volume_mounts": mounts,
        # A volume that nothing mounts would only hold the pod back until it can be attached
        "volumes": [volume for volume in config.volumes or [] if volume["name"] in mounted],
        "tolerations": config.tolerations,
        "node_selector": config.node_selector,
        "affinity": config.affinity,
    }
    stated.update({name: value for name, value in placed.items() if value})
    return PodSettings.model_validate(stated) if stated else None


def _resources(resources: Mapping[str, Any], nproc: int) -> dict[str, Any]:
    """Return CPU, memory and devices; what is only requested counts as its own limit."""
    wanted = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    stated: dict[str, Any] = {name: str(wanted[name]) for name in _PLAIN if name in wanted}
    for name, count in wanted.items():
        if name in _PLAIN:
            continue
        # Device plugins name resources with their domain; without one it is ephemeral-storage and
        # the like
        if "/" not in name or not str(count).isdecimal():
            raise RecipeError(
                f"a job's pods cannot be given {name}: {count}",
                code="VT-RECIPE-012",
                where=_WHERE,
                remedy="say it in launch.settings.kubernetes.pod of the recipe, or in platform.pod "
                "of the chart's values",
            )
        if "gpu" not in name.rpartition("/")[2]:
            stated.setdefault("devices", {})[name] = int(count)
            continue
        if int(count) != nproc:
            raise RecipeError(
                f"the task asks for {count} {name}, but ranks in a pod: {nproc}",
                code="VT-RECIPE-013",
                where=_WHERE,
                remedy=f"add the override launch.nproc={count}",
            )
        stated["gpu_resource"] = name
    return stated


def _environment(variables: list[Mapping[str, Any]]) -> dict[str, Any]:
    plain: dict[str, str] = {}
    secret: dict[str, dict[str, str]] = {}
    for variable in variables:
        name, source = variable["name"], variable.get("valueFrom") or {}
        if _is_of_the_step(name, source):
            continue
        if "secretKeyRef" in source:
            secret[name] = {
                "secret": source["secretKeyRef"]["name"],
                "key": source["secretKeyRef"]["key"],
            }
        elif not source:
            plain[name] = str(variable.get("value") or "")
        else:
            raise RecipeError(
                f"the variable {name} comes from {', '.join(source)}, which a job's pods cannot "
                f"have",
                code="VT-RECIPE-014",
                where=_WHERE,
                remedy="give its value, or take it from a Secret",
            )
    return {key: value for key, value in (("env", plain), ("secret_env", secret)) if value}


def _is_of_the_step(name: str, source: Mapping[str, Any]) -> bool:
    """Say whether a variable is what every pipeline's step gets: the job has its own from the
    platform's settings."""
    reference: Mapping[str, Any] = next(iter(source.values()), {})
    return name in (POD, WORKFLOW) or (
        # optional: as every step has it. One that somebody set for this task is not
        name in (*S3_KEYS, *S3_SETTINGS) and bool(reference.get("optional"))
    )
