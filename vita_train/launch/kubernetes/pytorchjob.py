"""PyTorchJob of the Training Operator (``kubeflow.org/v1``): one Master, the rest Workers, one pod
a node.

Source: training-operator v1.8 and v1.9. Always with a Master, because without one no address and no
rank is injected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_train.launch.kubernetes.job import Object, TrainingJob
from vita_train.launch.kubernetes.kind import Resource
from vita_train.launch.kubernetes.pods import pod_template
from vita_train.launch.kubernetes.state import JobState, Phase, condition, said

_PREFIX = "training.kubeflow.org"
_PHASES = (
    ("Succeeded", Phase.SUCCEEDED),
    ("Failed", Phase.FAILED),
    ("Suspended", Phase.SUSPENDED),
    ("Restarting", Phase.RESTARTING),
    ("Running", Phase.RUNNING),
)


class PyTorchJobs:
    """See `vita_train.launch.kubernetes.kind.JobKind`."""

    resource = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
    container = "pytorch"

    def manifest(self, job: TrainingJob) -> Object:
        """Return the PyTorchJob."""
        template = pod_template(job, self.container)

        def replica(number: int) -> Object:
            return {
                "replicas": number,
                "restartPolicy": job.platform.restart_policy,
                "template": template,
            }

        workers = {"Worker": replica(job.nodes - 1)} if job.nodes > 1 else {}
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "metadata": job.metadata(),
            "spec": {
                "nprocPerNode": str(job.nproc),
                # After a failure the surviving pods must not keep their GPUs; finished ones keep
                # their logs.
                "runPolicy": {
                    "cleanPodPolicy": "Running",
                    "suspend": bool(job.platform.queue.name),
                },
                "pytorchReplicaSpecs": {"Master": replica(1), **workers},
            },
        }

    def state(self, job: Mapping[str, Any]) -> JobState:
        """Read the conditions by type; a job without one waits."""
        # In order: conditions of what is past stay true beside newer ones
        for kind, phase in _PHASES:
            if entry := condition(job, kind):
                return said(phase, entry)
        return JobState(Phase.SUSPENDED if self.is_suspended(job) else Phase.PENDING)

    def is_suspended(self, job: Mapping[str, Any]) -> bool:
        """Read what a queue sets."""
        return bool(job["spec"].get("runPolicy", {}).get("suspend"))

    def selector(self, name: str) -> str:
        """Return the label selector of the job's pods."""
        return f"{_PREFIX}/job-name={name}"

    def node_rank(self, pod: Mapping[str, Any]) -> int:
        """Master 0, Worker i: i + 1."""
        labels = pod["metadata"].get("labels") or {}
        index = int(labels.get(f"{_PREFIX}/replica-index", 0))
        return 0 if labels.get(f"{_PREFIX}/replica-type") == "master" else index + 1
