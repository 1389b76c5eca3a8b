"""What every step needs on a cluster where the chart is installed. kfp.local passes over it.

``pipelines/compile.py --prefix`` and ``--s3-secret`` name what the chart was installed with.
"""

from __future__ import annotations

import os

from kfp import dsl, kubernetes

from vita_train.recipe.platform import FOLDER, POD, S3_KEYS, S3_SETTINGS, WORKFLOW

#: The chart's ``prefix``.
PREFIX = os.environ.get("VITA_TRAIN_PREFIX", "vita")
#: Secret with the keys of the object store; workload identity needs none.
S3_SECRET = os.environ.get("VITA_TRAIN_S3_SECRET", f"{PREFIX}-s3")


def on_cluster(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give a task the platform's settings, the keys of the object store, and the names of
    its own pod and Workflow."""
    platform = f"{PREFIX}-platform"
    # Optional, so that a step without the chart says so in its log instead of never starting.
    kubernetes.use_config_map_as_volume(task, platform, mount_path=str(FOLDER), optional=True)
    kubernetes.use_config_map_as_env(
        task, platform, {name: name for name in S3_SETTINGS}, optional=True
    )
    kubernetes.use_secret_as_env(task, S3_SECRET, {name: name for name in S3_KEYS}, optional=True)
    kubernetes.use_field_path_as_env(
        task, WORKFLOW, "metadata.labels['workflows.argoproj.io/workflow']"
    )
    return kubernetes.use_field_path_as_env(task, POD, "metadata.name")
