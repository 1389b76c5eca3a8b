"""Indexed Job of Kubernetes itself (``batch/v1``): pods without a GPU that share out the work of a
step by their numbers.

``backoffLimitPerIndex`` is there since Kubernetes 1.29 by default and stable since 1.33.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_train.errors import EXIT_REFUSED
from vita_train.launch.kubernetes.job import Object, TrainingJob
from vita_train.launch.kubernetes.kind import Resource
from vita_train.launch.kubernetes.pods import pod_template
from vita_train.launch.kubernetes.state import JobState, Phase, condition, said

#: Label and annotation of a pod: its number.
_INDEX = "batch.kubernetes.io/job-completion-index"
#: Times a pod of one number is started again.
_TRIES = 3


class IndexedJobs:
    """See `vita_train.launch.kubernetes.kind.JobKind`."""

    resource = Resource("batch", "v1", "jobs", "Job")
    container = "step"

    def manifest(self, job: TrainingJob) -> Object:
        """Return the Job."""
        template = pod_template(job, self.container)
        template["spec"]["restartPolicy"] = "Never"
        refused = {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": self.container,
                "operator": "In",
                "values": [EXIT_REFUSED],
            },
        }
        preempted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "metadata": job.metadata(),
            "spec": {
                "completionMode": "Indexed",
                "completions": job.nodes,
                "parallelism": job.nodes,
                "backoffLimitPerIndex": _TRIES,
                "maxFailedIndexes": 0,
                "podFailurePolicy": {"rules": [refused, preempted]},
                "suspend": bool(job.platform.queue.name),
                "template": template,
            },
        }

    def state(self, job: Mapping[str, Any]) -> JobState:
        """Read the conditions; that pods run their number tells."""
        for kind, phase in (
            ("Complete", Phase.SUCCEEDED),
            ("Failed", Phase.FAILED),
            ("Suspended", Phase.SUSPENDED),
        ):
            if entry := condition(job, kind):
                return said(phase, entry)
        if (job.get("status") or {}).get("active"):
            return JobState(Phase.RUNNING)
        return JobState(Phase.SUSPENDED if self.is_suspended(job) else Phase.PENDING)

    def is_suspended(self, job: Mapping[str, Any]) -> bool:
        """Read what a queue sets."""
        return bool(job["spec"].get("suspend"))

    def selector(self, name: str) -> str:
        """Return the label selector of the job's pods."""
        return f"batch.kubernetes.io/job-name={name}"

    def node_rank(self, pod: Mapping[str, Any]) -> int:
        """The completion index of the pod."""
        metadata = pod["metadata"]
        return int(
            (metadata.get("annotations") or {}).get(_INDEX)
            or (metadata.get("labels") or {}).get(_INDEX, 0)
        )
