"""A training job, said in our own words: what both kinds of Kubernetes job are made from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vita_train.errors import RecipeError
from vita_train.launch.backend import StageJob
from vita_train.recipe.platform import GRACE, Platform, merge_pod_settings
from vita_train.recipe.pod import PodSettings
from vita_train.storage import host_cache
from vita_train.storage.digest import digest_of
from vita_train.training.observability.metrics import PORT

#: Prefix of our labels and annotations.
DOMAIN = "vita-train.dev"
RUN_LABEL, STAGE_LABEL = f"{DOMAIN}/run", f"{DOMAIN}/stage"
MANAGED_BY = {"app.kubernetes.io/managed-by": "vita-train"}
#: Labels by which a stage's jobs are found again.
OURS = (RUN_LABEL, STAGE_LABEL, *MANAGED_BY)
#: Annotation that says what a job was made from: another launcher adopts a job only if it is the
#: same.
SPEC_HASH = f"{DOMAIN}/spec-hash"
#: Annotation on a job: how often it was started again before, so that the budget outlives a
#: launcher.
RESTARTS = f"{DOMAIN}/restarts"
#: Annotation on a job: the Workflow whose end the janitor waits for.
WORKFLOW = f"{DOMAIN}/workflow"
CACHE, SCRATCH, SHM = "/cache", "/tmp", "/dev/shm"

Object = dict[str, Any]
"""A Kubernetes object as the API speaks of it."""


@dataclass(frozen=True)
class TrainingJob:
    """One stage as a job of ``nodes`` pods with ``nproc`` ranks each."""

    name: str
    namespace: str
    run: str
    stage: str
    image: str
    command: tuple[str, ...]
    nodes: int
    nproc: int
    pod: PodSettings
    platform: Platform
    env: Mapping[str, str] = field(default_factory=dict)
    owner: Object | None = None
    """Reference to the object whose deletion takes the job with it."""
    workflow: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the job and of its pods."""
        queue = self.platform.queue
        kueue = {
            "kueue.x-k8s.io/queue-name": queue.name,
            "kueue.x-k8s.io/priority-class": queue.priority,
        }
        return {
            # Ours last: settings must not change what jobs are found again by
            **self.pod.labels,
            **MANAGED_BY,
            RUN_LABEL: label_value(self.run),
            STAGE_LABEL: self.stage,
            **{name: value for name, value in kueue.items() if value},
        }

    @property
    def metrics_ports(self) -> dict[str, int]:
        """Name and number of the port of each of a pod's ranks for Prometheus; none where they
        export nothing."""
        first = self.pod.metrics_port
        return {f"metrics-{rank}": first + rank for rank in range(self.nproc)} if first else {}

    @property
    def pod_annotations(self) -> dict[str, str]:
        """Annotations of the pods; ``vita-train.dev/metrics-<i>`` is the port of local rank i.

        A PodMonitor goes by these: a TrainJob cannot declare its pods' ports, and their number is
        the job's.
        """
        ports = {f"{DOMAIN}/{name}": str(port) for name, port in self.metrics_ports.items()}
        return {**self.pod.annotations, **ports}

    @property
    def spec_hash(self) -> str:
        """Digest of what the job computes with; neither its owner nor its clocks count."""
        return digest_of(
            {
                "image": self.image,
                "command": list(self.command),
                "nodes": self.nodes,
                "nproc": self.nproc,
                "env": dict(self.env),
                "pod": self.pod.model_dump(mode="json"),
                "restart_policy": self.platform.restart_policy,
                "runtime": self.platform.runtime,
            }
        )[:32]

    def metadata(self) -> Object:
        """Return the job's own metadata."""
        workflow = {WORKFLOW: self.workflow} if self.workflow else {}
        return {
            "name": self.name,
            "namespace": self.namespace,
            "labels": self.labels,
            "annotations": {**self.pod.annotations, SPEC_HASH: self.spec_hash, **workflow},
            **({"ownerReferences": [self.owner]} if self.owner else {}),
        }


def training_job(
    job: StageJob,
    *,
    platform: Platform,
    namespace: str,
    task: PodSettings | None = None,
    owner: Object | None = None,
    workflow: str = "",
) -> TrainingJob:
    """Describe the Kubernetes job that trains a stage.

    Args:
        job: the stage's job; another digest of it is another Kubernetes job.
        platform: the cluster's settings.
        namespace: where the job goes.
        task: settings of the KFP task that launches it, laid over all others.
        owner: reference to what owns the job.
        workflow: name of the Argo Workflow it belongs to.

    Raises:
        RecipeError: the platform names no image.
    """
    pod = merge_pod_settings(platform.pod, [job.settings.kubernetes.pod, *([task] if task else [])])
    metrics = {PORT: str(pod.metrics_port)} if pod.metrics_port else {}
    env = {
        # The root file system is read-only, and libraries write below the home
        "HOME": SCRATCH,
        host_cache.CACHE: CACHE,
        GRACE: str(pod.grace),
        **job.environment,
        **metrics,
        # Last: whoever sets a variable in the settings means it
        **pod.env,
    }
    run = job.run.name
    return TrainingJob(
        name=job_name(run, job.stage, job.digest),
        namespace=namespace,
        run=run,
        stage=job.stage,
        image=trainer_image(platform),
        command=job.command,
        nodes=job.resources.nodes,
        nproc=job.resources.nproc,
        pod=pod,
        platform=platform,
        env=env,
        owner=owner,
        workflow=workflow,
    )


def trainer_image(platform: Platform) -> str:
    """Return the image of training pods.

    Raises:
        RecipeError: none is set.
    """
    if not platform.image:
        raise RecipeError(
            "no image is set for training pods",
            code="VT-RECIPE-011",
            where="platform.image",
            remedy="set images.trainer in the chart's values, by digest",
        )
    return platform.image


def job_name(run: str, stage: str, digest: str) -> str:
    """Return the job's name, a function of what it does: a launcher that starts again finds the job
    it left.

    At most 40 characters, because JobSet makes longer names of it.
    """
    hashed = hashlib.sha256("\n".join([run, stage, digest]).encode()).hexdigest()
    return f"vita-{re.sub('[^a-z0-9]+', '-', stage)[:18].strip('-')}-{hashed[:16]}"


def label_value(text: str) -> str:
    """Return a text as a label's value: at most 63 of the characters that are allowed."""
    # A label has to begin and end with a letter or digit
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("._-")
