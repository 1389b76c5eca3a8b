"""The pods of a training job, within Pod Security's restricted level."""

from __future__ import annotations

from vita_train.launch.kubernetes.job import CACHE, SCRATCH, SHM, Object, TrainingJob
from vita_train.recipe.pod import PodSettings


def environment(job: TrainingJob) -> list[Object]:
    """Return the environment of a rank's container, sorted by name."""
    plain = [{"name": name, "value": value} for name, value in job.env.items()]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": entry.secret, "key": entry.key}}}
        for name, entry in job.pod.secret_env.items()
    ]
    return sorted([*plain, *secret], key=lambda entry: str(entry["name"]))


def resources(job: TrainingJob) -> Object:
    """Return what a pod asks for and may use; asking for all of it keeps it from being evicted
    first."""
    pod = job.pod
    gpus = {pod.gpu_resource: str(job.nproc)} if pod.gpu_resource else {}
    wanted = {
        "cpu": pod.cpu,
        "memory": pod.memory,
        **gpus,
        **{name: str(number) for name, number in sorted(pod.devices.items())},
    }
    # Requests equal to limits make the class Guaranteed
    return {"requests": wanted, "limits": dict(wanted)}


def container_security(job: TrainingJob) -> Object:
    """Return the container's security context."""
    # RDMA pins the memory that it reads and writes
    added = {"add": ["IPC_LOCK"]} if job.pod.lock_memory else {}
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **added},
    }


def pod_security(job: TrainingJob) -> Object:
    """Return the pod's security context."""
    user = job.pod.run_as
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        # Else the kubelet walks all files of a large volume at every start
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def volumes(job: TrainingJob) -> list[Object]:
    """Return the pod's volumes: shared memory, scratch, the node's cache, and what the settings
    add."""
    pod = job.pod
    return [
        # Loader workers and NCCL share memory; a container's own /dev/shm has 64 MiB
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pod.shm}},
        {"name": "scratch", "emptyDir": {"sizeLimit": pod.scratch}},
        {"name": "cache", **pod.cache},
        *pod.volumes,
    ]


def volume_mounts(job: TrainingJob) -> list[Object]:
    """Return where the container finds them."""
    ours = {"shm": SHM, "scratch": SCRATCH, "cache": CACHE}
    return [
        *({"name": name, "mountPath": path} for name, path in ours.items()),
        *job.pod.volume_mounts,
    ]


def placement(job: TrainingJob) -> Object:
    """Return the pod's fields that say where it may run and as whom; only those that are set."""
    pod = job.pod
    fields = {
        "serviceAccountName": pod.service_account,
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "nodeSelector": pod.node_selector,
        "tolerations": _tolerations(pod),
        "affinity": pod.affinity,
    }
    return {
        "terminationGracePeriodSeconds": pod.grace,
        **{name: value for name, value in fields.items() if value},
    }


def _tolerations(pod: PodSettings) -> list[Object]:
    """Return the tolerations; what the settings say of a node's state goes before ours."""
    stated = {entry.get("key") for entry in pod.tolerations}
    states = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return [
        *pod.tolerations,
        *(
            {
                "key": state,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": pod.node_timeout,
            }
            for state in states
            if state not in stated
        ),
    ]


def pod_template(job: TrainingJob, container: str) -> Object:
    """Return a pod template with the ranks' container under the name its job wants; that says when
    to restart."""
    pod = job.pod
    ports = [{"name": name, "containerPort": number} for name, number in job.metrics_ports.items()]
    spec = {
        **placement(job),
        # Training code has no business with the API
        "automountServiceAccountToken": False,
        # Else every Service of the namespace becomes a handful of variables
        "enableServiceLinks": False,
        "securityContext": pod_security(job),
        "volumes": volumes(job),
        "containers": [
            {
                "name": container,
                "image": job.image,
                "imagePullPolicy": job.platform.image_pull_policy,
                "command": list(job.command),
                "env": environment(job),
                "resources": resources(job),
                "securityContext": container_security(job),
                "volumeMounts": volume_mounts(job),
                # A container that is killed leaves no message of its own: the end of its log stands
                # in
                "terminationMessagePolicy": "FallbackToLogsOnError",
                **({"ports": ports} if ports else {}),
            }
        ],
        **({"priorityClassName": pod.priority_class} if pod.priority_class else {}),
    }
    return {"metadata": {"labels": job.labels, "annotations": job.pod_annotations}, "spec": spec}
