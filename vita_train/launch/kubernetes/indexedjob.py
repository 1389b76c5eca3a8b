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
from vita_train.launch.kubernetes.state import (
    JobState,
    batch_state,
    completion_index,
    is_suspended,
)

#: Times a pod of one number is started again.
_TRIES = 3


class IndexedJobs:
    """See `vita_train.launch.kubernetes.kind.JobKind`."""

    resource = Resource("batch", "v1", "jobs", "Job")
    container = "step"

    def manifest(self, job: TrainingJob) -> Object:
        """Return the Job."""
        template = pod_template(job, self.container)
        # podFailurePolicy asks for it: each try is a pod, and its end can be read
        template["spec"]["restartPolicy"] = "Never"
        # Trying again what was refused would only take time
        refused = {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": self.container,
                "operator": "In",
                "values": [EXIT_REFUSED],
            },
        }
        # Not counted among the tries: a drained node is no fault of the pod
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
                # One number that gave up fails the step: a share of the data would be missing
                "maxFailedIndexes": 0,
                "podFailurePolicy": {"rules": [refused, preempted]},
                # Kueue takes jobs in that are created suspended
                "suspend": bool(job.platform.queue.name),
                "template": template,
            },
        }

    def state(self, job: Mapping[str, Any]) -> JobState:
        """Read the conditions; that pods run their number tells."""
        return batch_state(job, is_active=bool((job.get("status") or {}).get("active")))

    def is_suspended(self, job: Mapping[str, Any]) -> bool:
        """Read what a queue sets."""
        return is_suspended(job)

    def selector(self, name: str) -> str:
        """Return the label selector of the job's pods."""
        return f"batch.kubernetes.io/job-name={name}"

    def node_rank(self, pod: Mapping[str, Any]) -> int:
        """The completion index of the pod."""
        return completion_index(pod)
