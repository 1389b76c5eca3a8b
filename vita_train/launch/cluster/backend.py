"""What a kind of Kubernetes job must offer, and the choice between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vita_train.errors import UserError
from vita_train.launch.cluster.job import Object, TrainingJob
from vita_train.launch.cluster.state import JobState


@dataclass(frozen=True)
class Resource:
    """A kind of object as the API addresses it."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """``group/version``."""
        return f"{self.group}/{self.version}"


class JobBackend(Protocol):
    """One kind of job."""

    resource: Resource
    container: str
    """Name of the container the ranks run in."""

    def manifest(self, job: TrainingJob) -> Object:
        """Return the object to create.

        Raises:
            RecipeError: this kind cannot express one of the settings.
        """

    def state(self, job: Mapping[str, Any]) -> JobState:
        """Read how a job stands from the object the API returned."""

    def selector(self, name: str) -> str:
        """Return the label selector of a job's pods."""

    def node_rank(self, pod: Mapping[str, Any]) -> int:
        """Return which node of the job a pod is; 0 holds rank 0."""


def served_backends(served: Collection[str]) -> list[JobBackend]:
    """Return the kinds of job that a cluster serves, the preferred one first.

    Args:
        served: ``group/version`` of every API the cluster serves.
    """
    return [backend for backend in _known().values() if backend.resource.api_version in served]


def choose(wanted: str, served: Collection[str]) -> JobBackend:
    """Return the backend to use.

    Args:
        wanted: ``auto``, ``pytorchjob`` or ``trainjob``.
        served: ``group/version`` of every API the cluster serves.

    Raises:
        UserError: the cluster does not serve it, or neither.
    """
    known = _known()
    names = list(known) if wanted == "auto" else [wanted]
    for name in names:
        if known[name].resource.api_version in served:
            return known[name]
    missing = " nor ".join(known[name].resource.api_version for name in names)
    raise UserError(f"this cluster serves no {missing}", where="platform.backend",
                    remedy="install Kubeflow Trainer (or the Training Operator), or choose another backend")


def _known() -> dict[str, JobBackend]:
    from vita_train.launch.cluster.pytorchjob import PyTorchJobs
    from vita_train.launch.cluster.trainjob import TrainJobs

    return {"trainjob": TrainJobs(), "pytorchjob": PyTorchJobs()}
