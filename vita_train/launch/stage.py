"""Where a stage's job runs: on this machine, or on the cluster the launcher finds itself in."""

from __future__ import annotations

import os
from typing import Any

from vita_train.launch.local import launch_local
from vita_train.recipe.platform import POD, load_platform, needed_platform
from vita_train.recipe.schema import Recipe
from vita_train.runs.manifest import Manifest


def launch_stage(recipe: Recipe, stage: str, run: str, digest: str, task: Any = None) -> Manifest:
    """Run a stage to its end and return the manifest it committed.

    Args:
        recipe: the run's recipe.
        stage: canonical stage id.
        run: the run's name.
        digest: of all that goes into the step; on a cluster a job is taken up by it.
        task: KFP's ``TaskConfig`` of the task that launches the stage, for the pods of its job.

    Raises:
        UserError: a pipeline's step finds no settings of the cluster.
        VitaError: as `launch_local` and `launch_on_cluster` raise.
    """
    platform = load_platform()
    backend = recipe.launch.backend
    # A pipeline's step has no GPU of its own: without the chart it must not begin to train there.
    if backend == "auto" and (platform or not os.environ.get(POD)):
        backend = platform.backend if platform else "local"
    if backend == "local":
        return launch_local(recipe, stage, run)
    platform = platform or needed_platform(f"launch.backend is {backend}", "launch.backend")
    from vita_train.launch.kubernetes.launcher import launch_on_cluster
    from vita_train.launch.kubernetes.task import task_settings

    return launch_on_cluster(recipe, stage, run, digest, platform, backend,
                             task=task_settings(task, recipe.launch.nproc))
