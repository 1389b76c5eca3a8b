"""TrainJob of Kubeflow Trainer v2 (``trainer.kubeflow.org/v1alpha1``) over the chart's own torchrun
runtime.

Source: Trainer v2.3.0, JobSet v0.12.0. The runtime states what no job may change (restart rules,
security, image pull policy, priority class); the job states the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_train.errors import RecipeError
from vita_train.launch.kubernetes.job import DOMAIN, Object, TrainingJob
from vita_train.launch.kubernetes.kind import Resource
from vita_train.launch.kubernetes.pods import (
    container_security,
    environment,
    placement,
    pod_security,
    resources,
    volume_mounts,
    volumes,
)
from vita_train.launch.kubernetes.state import (
    JobState,
    batch_state,
    completion_index,
    is_suspended,
)


class TrainJobs:
    """See `vita_train.launch.kubernetes.kind.JobKind`."""

    resource = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")
    container = "node"

    def manifest(self, job: TrainingJob) -> Object:
        """Return the TrainJob.

        Raises:
            RecipeError: ``pod.priority_class`` is set, which a TrainJob cannot.
        """
        if job.pod.priority_class:
            raise RecipeError(
                "a TrainJob cannot set the priority class of its pods",
                code="VT-RECIPE-015",
                where="pod.priority_class",
                remedy="set it in the chart's values, from which the runtime is made, "
                "or use queue.priority",
            )
        pod = {
            "metadata": {"labels": job.labels, "annotations": job.pod_annotations},
            "spec": {
                **placement(job),
                "securityContext": pod_security(job),
                "volumes": volumes(job),
                "containers": [
                    # No env here: Trainer refuses it in patches of this container.
                    {
                        "name": self.container,
                        "securityContext": container_security(job),
                        "volumeMounts": volume_mounts(job),
                    }
                ],
            },
        }
        template = {
            "spec": {
                "replicatedJobs": [
                    {"name": self.container, "template": {"spec": {"template": pod}}}
                ]
            }
        }
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "metadata": job.metadata(),
            "spec": {
                "runtimeRef": {
                    "apiGroup": self.resource.group,
                    "kind": "TrainingRuntime",
                    "name": job.platform.runtime,
                },
                "suspend": bool(job.platform.queue.name),
                "trainer": {
                    "image": job.image,
                    "command": list(job.command),
                    "env": environment(job),
                    "numNodes": job.nodes,
                    "numProcPerNode": job.nproc,
                    "resourcesPerNode": resources(job),
                },
                "runtimePatches": [
                    {"manager": f"{DOMAIN}/launcher", "trainingRuntimeSpec": {"template": template}}
                ],
            },
        }

    def state(self, job: Mapping[str, Any]) -> JobState:
        """Read the conditions; there is none for running, which the child jobs' counts tell."""
        counts = (job.get("status") or {}).get("jobsStatus") or ()
        is_active = any(entry.get("ready") or entry.get("active") for entry in counts)
        return batch_state(job, is_active=is_active)

    def is_suspended(self, job: Mapping[str, Any]) -> bool:
        """Read what a queue sets."""
        return is_suspended(job)

    def selector(self, name: str) -> str:
        """Return the label selector of the job's pods."""
        return f"jobset.sigs.k8s.io/jobset-name={name}"

    def node_rank(self, pod: Mapping[str, Any]) -> int:
        """The completion index of the pod."""
        return completion_index(pod)
