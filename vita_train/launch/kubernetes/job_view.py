"""What the launcher has seen of a job: the newest object of each pod, gone ones included, and what
they left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vita_train.launch.kubernetes.failures import Reason, pod_failures
from vita_train.launch.kubernetes.job import Object
from vita_train.launch.kubernetes.kind import JobKind


@dataclass
class JobView:
    """A job and its pods, kept up to date from a watch.

    Pods are kept under their uid after they are gone, because a controller removes failed pods
    within seconds and they hold the reason. ``on_failed`` is called once for each pod that fails,
    while its log may still be there.
    """

    backend: JobKind
    on_failed: Callable[[Object], None]
    job: Object | None = None
    is_deleted: bool = False
    pods: dict[str, Object] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    taken_away: set[str] = field(default_factory=set)
    """Pods that a queue took away, or takes away, by suspending the job: no fault of theirs."""
    _reported: set[str] = field(default_factory=set)

    def take(self, kind: str, change: str, thing: Any) -> None:
        """Take in one change as `vita_train.launch.kubernetes.watch.Watcher` hands it over."""
        things = thing if change == "SYNC" else [thing]
        if kind == "Pod":
            if change == "SYNC":
                # A full list: what is not in it was deleted while nobody watched
                self.gone |= set(self.pods) - {one["metadata"]["uid"] for one in things}
            for one in things:
                self._take_pod(one, is_gone=change == "DELETED")
        elif change == "DELETED" or not things:  # the job was created before anyone watched
            self.is_deleted = True
        else:
            self.job, self.is_deleted = things[0], False
            if self.backend.is_suspended(things[0]):
                self.taken_away |= set(self.pods)

    @property
    def by_node(self) -> list[Object]:
        """All pods ever seen, by node rank, oldest first."""
        return sorted(
            self.pods.values(),
            key=lambda pod: (
                self.backend.node_rank(pod),
                str(pod["metadata"].get("creationTimestamp", "")),
            ),
        )

    @property
    def present(self) -> list[Object]:
        """Pods that are there now, by node rank."""
        return [pod for pod in self.by_node if pod["metadata"]["uid"] not in self.gone]

    @property
    def started(self) -> int:
        """Pods that run, or have."""
        return sum(
            (pod.get("status") or {}).get("phase") in ("Running", "Succeeded")
            for pod in self.present
        )

    @property
    def first(self) -> Object | None:
        """The pod with rank 0, if it is there."""
        return next((pod for pod in self.present if self.backend.node_rank(pod) == 0), None)

    @property
    def restarts(self) -> int:
        """Times any node's container or pod was started again, the most of all nodes, preempted
        pods and those of a suspended job not counted."""
        counts: dict[int, int] = {}
        for pod in self.by_node:
            preempted = any(failure.reason == Reason.PREEMPTED for failure in pod_failures(pod))
            if preempted or pod["metadata"]["uid"] in self.taken_away:
                continue
            node = self.backend.node_rank(pod)
            # From -1, as the first pod of a node is no restart
            counts[node] = counts.get(node, -1) + 1 + restart_count(pod)
        return max(counts.values(), default=0)

    def _take_pod(self, pod: Object, *, is_gone: bool) -> None:
        uid = str(pod["metadata"]["uid"])
        self.pods[uid] = pod
        if is_gone:
            self.gone.add(uid)
        has_failed = (pod.get("status") or {}).get("phase") == "Failed"
        if has_failed and uid not in self._reported:
            self._reported.add(uid)
            self.on_failed(pod)


def restart_count(pod: Object) -> int:
    """Return how often the kubelet has started the pod's containers again in place."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return sum(int(one.get("restartCount", 0)) for one in statuses)
