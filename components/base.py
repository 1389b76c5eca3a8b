"""What all components share: they run in our own images, which have the package and kfp installed.

Give the images by digest in a cluster: KFP's cache sees only these strings.
"""

from __future__ import annotations

import os
from functools import partial

from kfp import dsl
from kfp.dsl import TaskConfigField, TaskConfigPassthrough

_component = partial(dsl.component, install_kfp_package=False)

#: Steps that read and check raw data.
data_component = partial(
    _component, base_image=os.environ.get("VITA_TRAIN_DATA_IMAGE", "vita-train-data-python:0.1.0")
)
#: Steps that run the model themselves.
model_component = partial(
    _component,
    base_image=os.environ.get("VITA_TRAIN_TRAINER_IMAGE", "vita-train-trainer-python:0.1.0"),
)
#: Steps that start a training job and wait for it. What is set on such a task in KFP is meant for
#: the job's pods: its
#: GPUs must not be requested by the waiting step too, its variables and volumes serve both.
training_component = partial(
    _component,
    base_image=os.environ.get("VITA_TRAIN_LAUNCHER_IMAGE", "vita-train-launcher-python:0.1.0"),
    task_config_passthroughs=[
        TaskConfigField.RESOURCES,
        TaskConfigField.KUBERNETES_TOLERATIONS,
        TaskConfigField.KUBERNETES_NODE_SELECTOR,
        TaskConfigField.KUBERNETES_AFFINITY,
        TaskConfigPassthrough(field=TaskConfigField.ENV, apply_to_task=True),
        TaskConfigPassthrough(field=TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ],
)
