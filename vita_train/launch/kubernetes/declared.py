"""The job backends of Kubernetes: a PyTorchJob, a TrainJob, or whichever of the two the cluster
serves."""

from __future__ import annotations

from vita_train.recipe.backends import JobBackendSpec, register_job_backend
from vita_train.recipe.base import Strict
from vita_train.recipe.pod import PodSettings, StepPods


class KubernetesSettings(Strict):
    """What a recipe says to Kubernetes."""

    pod: PodSettings = PodSettings()
    """Laid over the platform's pod settings."""
    steps: StepPods = {}
    """Pods of the steps that fetch, check, evaluate, export and report, by step or for ``all`` of
    them, laid over the platform's. They mount the volumes of ``pod`` that are claims, Secrets or
    ConfigMaps, so that they read the data that training reads."""


for _name, _class in (
    ("kubernetes", "KubernetesBackend"),
    ("trainjob", "TrainJobBackend"),
    ("pytorchjob", "PyTorchJobBackend"),
):
    register_job_backend(
        JobBackendSpec(
            _name,
            f"vita_train.launch.kubernetes.launcher:{_class}",
            settings=KubernetesSettings,
            settings_key="kubernetes",
        )
    )
