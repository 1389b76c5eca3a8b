"""What a kind of Kubernetes job must offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vita_train.launch.kubernetes.job import Object, TrainingJob
from vita_train.launch.kubernetes.state import JobState


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


class JobKind(Protocol):
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

    def is_suspended(self, job: Mapping[str, Any]) -> bool:
        """Say whether a queue holds the job back, or has taken its pods away."""

    def selector(self, name: str) -> str:
        """Return the label selector of a job's pods."""

    def node_rank(self, pod: Mapping[str, Any]) -> int:
        """Return which node of the job a pod is; 0 holds rank 0."""
