"""Why a job failed or does not start, from what Kubernetes knows: conditions, container ends,
events.

Pure functions over objects as the API returns them, because pods and their logs vanish within
seconds of a failure: whoever watches keeps the objects, and this reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vita_train.errors import (
    EXIT_REFUSED,
    EXIT_RETRYABLE,
    EXIT_STOPPED,
    PeerLostError,
    UserError,
    VitaError,
)
from vita_train.launch.kubernetes.state import JobState, seconds

Object = Mapping[str, Any]


class Reason(StrEnum):
    """Kinds of failure, in the order in which one explains another."""

    USER_ERROR = "USER_ERROR"
    """The recipe or the data must change."""
    IMAGE = "IMAGE"
    """An image cannot be pulled, or a container cannot be made from it."""
    OOM = "OOM"
    """Out of memory, of the pod or of a GPU."""
    CRASH = "CRASH"
    """A rank ended with a traceback."""
    DEADLINE = "DEADLINE"
    """A clock ran out."""
    UNSCHEDULABLE = "UNSCHEDULABLE"
    """No node has room, or a quota does not allow it."""
    PREEMPTED = "PREEMPTED"
    """Something more important took the node, or it was drained."""
    NCCL = "NCCL"
    """The ranks lost each other inside a collective."""
    INFRA = "INFRA"
    """A node, the API or the store went away."""

    @property
    def retryable(self) -> bool:
        """Whether starting the job again, unchanged, may help."""
        return self in (Reason.PREEMPTED, Reason.NCCL, Reason.INFRA)


_ORDER = tuple(Reason)
_IMAGE_WAITS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_CONFIG_WAITS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
#: What Job and PyTorchJob say of pods and services that the API server does not let them make.
_POD_REFUSALS = ("FailedCreate", "FailedCreatePod")
_REFUSALS = (*_POD_REFUSALS, "FailedCreateService")
_WARNINGS = (
    *_REFUSALS,
    "FailedScheduling",
    "TrainJobResourcesCreationFailed",
    "FailedMount",
    "FailedAttachVolume",
)
_GPU_MEMORY = re.compile(r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED")
_NCCL = re.compile(r"\bNCCL\b|ncclInternalError|ncclSystemError|ProcessGroupNCCL")
_SIGKILL = 137
#: Seconds a node may be late to say that a pod has ended.
_SILENCE = 30.0
_INIT_CONTAINER = (
    "start the training operator with --pytorch-init-container-template-file and a container that "
    "has a "
    "securityContext (docs/cluster.md), or use TrainJobs"
)
_REMEDIES = {
    Reason.OOM: "lower batch.global_batch_size or batch.seq_len and raise batch.grad_accum, or ask "
    "for more "
    "with pod.memory",
    Reason.CRASH: "the traceback is in the pod's log",
    Reason.NCCL: "check NCCL_SOCKET_IFNAME and the RDMA settings in pod.env and pod.devices",
    Reason.IMAGE: "check the image's name and digest, pod.image_pull_secrets, and that its "
    "architecture is the node's",
    Reason.UNSCHEDULABLE: "free nodes, raise the quota, or lower launch.nodes, launch.nproc, "
    "pod.cpu, pod.memory",
}


@dataclass(frozen=True)
class Failure:
    """Why a job ended."""

    reason: Reason
    what: str
    where: str = ""
    remedy: str = ""
    tails: Mapping[str, str] = field(default_factory=dict)
    """Last lines of each failed rank, by ``<pod>/rank-<r>``."""
    code: str = ""
    """Of the error that a rank ended with."""
    is_echo: bool = False
    """The pod only did as it was told when it ended, so another's failure says more."""

    def error(self) -> VitaError:
        """Return the failure as the error a command ends with."""
        lines = [f"{name}\n{tail}" for name, tail in self.tails.items() if tail]
        what = "\n".join([f"{self.reason}: {self.what}", *lines])
        kind = {Reason.USER_ERROR: UserError}.get(
            self.reason, PeerLostError if self.reason.retryable else VitaError
        )
        return kind(
            what,
            code=self.code,
            where=self.where,
            remedy=self.remedy or _REMEDIES.get(self.reason, ""),
        )


def explain(state: JobState, pods: Sequence[Object], events: Iterable[Object] = ()) -> Failure:
    """Return why a job failed.

    Args:
        state: what its controller says.
        pods: its pods, as last seen, in the order of their node ranks; those that are gone by now
            included.
        events: events about the job and its pods.
    """
    found = [failure for pod in pods for failure in pod_failures(pod)]
    if state.reason == "DeadlineExceeded" or "longer than specified deadline" in state.message:
        found.append(Failure(Reason.DEADLINE, f"the job's own deadline passed: {state.message}"))
    if found:
        # A controller stops the pods that are left when one has failed: being asked to stop
        # explains nothing then.
        first = min(found, key=lambda failure: (failure.is_echo, _ORDER.index(failure.reason)))
        return Failure(
            first.reason,
            first.what,
            first.where,
            first.remedy,
            {name: tail for failure in found for name, tail in failure.tails.items()},
            first.code,
        )
    if warning := _warning(events):
        return warning
    said = ": ".join(part for part in (state.reason, state.message) if part)
    return Failure(Reason.INFRA, said or "the job failed, and nothing says why")


def blocked(
    pods: Sequence[Object], events: Iterable[Object] = (), *, nodes: int = 0
) -> Failure | None:
    """Return why a job does not start, or None if nothing speaks against it.

    An image that cannot be pulled is final. Missing room is not: nodes may come, so the caller
    waits for its clock. What ended a container before the one that runs now is history, and so are
    refusals of pods once all are there.

    Args:
        pods: that are there now.
        events: about the job and its pods.
        nodes: pods that the job is to have, where that is known.
    """
    for pod in pods:
        for failure in () if _runs(pod) else pod_failures(pod):
            return failure
    for pod in pods:
        for condition in _conditions(pod):
            if (
                condition.get("type") == "PodScheduled"
                and condition.get("reason") == "Unschedulable"
            ):
                return Failure(
                    Reason.UNSCHEDULABLE,
                    str(condition.get("message") or "no node has room"),
                    _name(pod),
                )
    past = _POD_REFUSALS if 0 < nodes <= len(pods) else ()
    return _warning(event for event in events if event.get("reason") not in past)


def lost(pods: Sequence[Object], now: float) -> Failure | None:
    """Return the failure of a job with a pod that should have ended by now, which only its node can
    say; else None.

    Args:
        pods: that are there now.
        now: seconds since 1970.
    """
    for pod in pods:
        stamp = pod["metadata"].get(
            "deletionTimestamp"
        )  # when it has to be gone, its grace included
        if stamp and now - seconds(stamp) > _SILENCE:
            node = (pod.get("spec") or {}).get("nodeName")
            return Failure(
                Reason.INFRA,
                f"node {node} does not answer, and its pod cannot be ended",
                _name(pod),
                "see to the node; once its Node object is gone, so are the job and the pod",
            )
    return None


def pod_failures(pod: Object) -> list[Failure]:
    """Return every failure one pod shows; none for a pod that waits, runs or succeeded."""
    name, status = _name(pod), pod.get("status") or {}
    statuses = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    failures = [failure for one in statuses if (failure := _container_failure(name, one))]
    for condition in _conditions(pod):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            why = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
            return [Failure(Reason.PREEMPTED, why, name, tails=_tails(failures))]
    if status.get("reason") in ("Evicted", "Preempting"):
        full = str(status.get("message") or status["reason"])
        return [Failure(Reason.PREEMPTED, full, name, tails=_tails(failures))]
    if status.get("reason") in ("NodeLost", "NodeShutdown", "Terminated", "Shutdown"):
        return [Failure(Reason.INFRA, str(status.get("message") or "its node went away"), name)]
    return failures


def _runs(pod: Object) -> bool:
    """Say whether all of a pod's containers run."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return bool(statuses) and all(
        (one.get("state") or {}).get("running") is not None for one in statuses
    )


def _container_failure(pod: str, status: Object) -> Failure | None:
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    if reason in _IMAGE_WAITS:
        return Failure(Reason.IMAGE, message or reason, pod)
    if reason in _CONFIG_WAITS:
        # A Secret or ConfigMap that the settings name
        missing = Reason.USER_ERROR if "not found" in message else Reason.IMAGE
        return Failure(
            missing,
            message or reason,
            pod,
            remedy="create what it names, or correct the pod settings"
            if missing == Reason.USER_ERROR
            else "",
        )
    # Where the container was started again its last end is in lastState
    ended = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get(
        "terminated"
    )
    if not ended or not ended.get("exitCode"):
        return None
    return _ended(pod, ended)


def _ended(pod: str, ended: Object) -> Failure:
    """Read a container's end: Kubernetes' reason, the exit code, and the last words our entry
    left."""
    code, text = int(ended["exitCode"]), str(ended.get("message") or "")
    words = _last_words(text)
    what = str(words.get("what") or f"ended with code {code}")
    said = str(words.get("error") or "")
    where = f"{pod}: {words['where']}" if words.get("where") else pod
    tails = {f"{pod}/{rank}": str(tail) for rank, tail in (words.get("tails") or {}).items()}
    # No JSON: the kubelet filled in the end of the log, as terminationMessagePolicy asks
    if not words and text:
        tails = {pod: "\n".join(f"  | {line}" for line in text.rstrip().splitlines())}
    everything = "\n".join([what, text])
    if ended.get("reason") == "OOMKilled":
        return Failure(
            Reason.OOM, f"the pod used more memory than it may ({what})", where, tails=tails
        )
    # Only with our own words: 2 is also what a shell or argparse ends with
    if code == EXIT_REFUSED and words:
        return Failure(Reason.USER_ERROR, what, where, str(words.get("remedy") or ""), tails, said)
    # Before the code: a CUDA error ends a rank in whatever way it likes
    if _GPU_MEMORY.search(everything):
        return Failure(Reason.OOM, "a GPU has no memory left", where, tails=tails)
    if code == _SIGKILL:
        return Failure(
            Reason.INFRA,
            "the container was killed (137) and Kubernetes does not say why",
            where,
            "usually memory or a node that went away",
            tails,
        )
    if _NCCL.search(everything):
        return Failure(Reason.NCCL, what, where, tails=tails)
    if code in (EXIT_RETRYABLE, EXIT_STOPPED):
        return Failure(
            Reason.PREEMPTED if code == EXIT_STOPPED else Reason.INFRA,
            what,
            where,
            str(words.get("remedy") or ""),
            tails,
            said,
            is_echo=code == EXIT_STOPPED,
        )
    return Failure(Reason.CRASH, what, where, str(words.get("remedy") or ""), tails, said)


def _last_words(text: str) -> dict[str, Any]:
    """Return what `vita_train.launch.worker` left as termination message, or nothing."""
    try:
        words = json.loads(text)
    except ValueError:
        return {}
    return words if isinstance(words, dict) and "what" in words else {}


def _warning(events: Iterable[Object]) -> Failure | None:
    """Return the newest event that explains why there are no pods, or why they wait."""
    telling = [event for event in events if event.get("reason") in _WARNINGS]
    if not telling:
        return None
    # ISO times of one zone sort as text; newer events have eventTime alone
    event = max(
        telling, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or "")
    )
    about = str((event.get("involvedObject") or {}).get("name") or "")
    reason, message = event["reason"], str(event.get("message") or "")
    if reason in ("FailedMount", "FailedAttachVolume"):
        kind = Reason.USER_ERROR if "not found" in message else Reason.INFRA
    elif reason == "FailedScheduling" or "quota" in message:
        kind = Reason.UNSCHEDULABLE
    elif reason in _REFUSALS and re.search(r"forbidden|invalid", message):
        kind = Reason.USER_ERROR
    else:
        kind = (
            Reason.INFRA
        )  # also "failed calling webhook", while Trainer waits for its certificates
    remedy = _INIT_CONTAINER if "init-pytorch" in message and "PodSecurity" in message else ""
    return Failure(kind, f"{reason}: {message}", about, remedy)


def _tails(failures: Iterable[Failure]) -> dict[str, str]:
    return {name: tail for failure in failures for name, tail in failure.tails.items()}


def _conditions(pod: Object) -> list[Object]:
    return list((pod.get("status") or {}).get("conditions") or ())


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])
