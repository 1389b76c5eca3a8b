"""The one place where the details of a training pod are stated."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from vita_train.recipe.base import Count, OptionalCount, Strict

#: A Kubernetes quantity, as the API takes it: 8, 500m, 64Gi.
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
#: Kubernetes objects that are handed on as they are; the API server checks them when the job is
#: created.
Raw = dict[str, Any]


class SecretKey(Strict):
    """One entry of a Secret."""

    secret: str
    key: str


class Toleration(Strict):
    """A taint of nodes that a pod does not mind, as the Kubernetes API states it."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    tolerationSeconds: OptionalCount | None = None  # noqa: N815


class StepPod(Strict):
    """What the pod of a pipeline's step gets, beside the volumes of training pods. Steps that start
    training jobs only wait; what these need is for `PodSettings`."""

    cpu: str = Field(default="", pattern=f"^$|{QUANTITY}")
    """Limit; empty sets none."""
    memory: str = Field(default="", pattern=f"^$|{QUANTITY}")
    gpus: OptionalCount = 0
    gpu_resource: str = "nvidia.com/gpu"
    pods: Count = 1
    """Of ``prepare`` alone: pods of an Indexed Job that work beside each other, each with these
    resources."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()


#: Steps that have pods of their own, and what stands for all of them.
StepName = Literal["all", "data_fetch", "prepare", "preflight", "evaluate", "export", "report"]
StepPods = dict[StepName, StepPod]


class PodSettings(Strict):
    """What every pod of a training job gets, one pod a node."""

    #: Mappings that make no sense joined.
    REPLACED: ClassVar[frozenset[str]] = frozenset({"affinity", "cache"})

    cpu: str = Field(default="8", pattern=QUANTITY)
    memory: str = Field(default="64Gi", pattern=QUANTITY)
    """Shared memory counts against it."""
    gpu_resource: str = "nvidia.com/gpu"
    """Resource that is requested ``launch.nproc`` times; empty trains on the CPU."""
    devices: dict[str, Count] = {}
    """Further devices of a pod, such as the site's RDMA resource: name to number."""
    shm: str = Field(default="16Gi", pattern=QUANTITY)
    """Size of /dev/shm. The container default of 64 MiB breaks NCCL and loader workers."""
    scratch: str = Field(default="20Gi", pattern=QUANTITY)
    """Size limit of /tmp."""
    cache: Raw = Field(default_factory=lambda: {"emptyDir": {}})
    """Volume source of the node-local cache of weights and data: emptyDir, hostPath,
    persistentVolumeClaim."""
    env: dict[str, str] = {}
    """Environment of the ranks; NCCL settings belong here."""
    secret_env: dict[str, SecretKey] = {}
    """Environment taken from Secrets, such as S3 credentials."""
    service_account: str = ""
    """Service account; with workload identity it carries the access to S3. Empty takes the
    namespace's default."""
    image_pull_secrets: tuple[str, ...] = ()
    node_selector: dict[str, str] = {}
    tolerations: tuple[Raw, ...] = ()
    node_timeout: OptionalCount = 60
    """Seconds after which a node that does not answer loses its pods; Kubernetes' own default is
    300."""
    affinity: Raw = {}
    volumes: tuple[Raw, ...] = ()
    volume_mounts: tuple[Raw, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    priority_class: str = ""
    """PriorityClass of the pods. A TrainJob takes it from its runtime instead."""
    metrics_port: int = Field(default=0, ge=0, le=65000)
    """Port of a pod's first rank for Prometheus, each further rank takes the next one; 0 exports
    nothing."""
    grace: int = Field(default=300, ge=30, le=10**9)
    """Seconds between SIGTERM and SIGKILL; must exceed twice the worst time to save and upload a
    checkpoint, as one may be under way, and the two minutes for which a store that is away is tried
    again. Training warns if it does not."""
    run_as: int = Field(default=65532, ge=1, le=2**31 - 1)
    """User and group id of the ranks. Root is not offered: the pods fit Pod Security's restricted
    level."""
    lock_memory: bool = False
    """Add IPC_LOCK, which RDMA verbs need; only namespaces below the restricted level allow it."""
