"""One job, watched until it is over, with rank 0's log; why it failed, if it did."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from queue import Empty, Queue
from typing import Any

from vita_train.errors import StoppedError, VitaError
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.failures import Failure, Reason, blocked, explain, lost
from vita_train.launch.kubernetes.job import Object, TrainingJob
from vita_train.launch.kubernetes.job_view import JobView
from vita_train.launch.kubernetes.kind import JobKind
from vita_train.launch.kubernetes.logs import FirstLog, last_lines
from vita_train.launch.kubernetes.state import JobState, Phase
from vita_train.launch.kubernetes.timeouts import JobTimeouts
from vita_train.launch.kubernetes.watch import EVENTS, PODS, Watcher

#: Takes a line of progress.
Say = Callable[[str], None]
#: Short, because between the signal to stop and the end of the container there is little time.
_TURN = 0.1
_EVENTS_EVERY = 15.0


class JobMonitor:
    """One job that is there, until it is over.

    Args:
        cluster: the API.
        backend: kind of job.
        job: what runs.
        timeouts: how long it may wait and run; they go on over several jobs.
        check: called every turn; raises what ends the watching early.
        out: takes each line of progress, and of rank 0's log.
    """

    def __init__(
        self,
        cluster: Cluster,
        backend: JobKind,
        job: TrainingJob,
        timeouts: JobTimeouts,
        check: Callable[[], None],
        out: Say,
    ) -> None:
        self._cluster, self._backend, self._job = cluster, backend, job
        self._timeouts, self._check, self._out = timeouts, check, out
        self._changes: Queue[tuple[str, str, Any]] = Queue()
        self._view = JobView(backend, self._keep_tail)
        self._tails: dict[str, str] = {}

    def until_over(self, restarts_left: int) -> Failure | None:
        """Watch the job until it is over; None if it succeeded, else why it did not.

        Args:
            restarts_left: times its pods may be started again.

        Raises:
            VitaError: what ``check`` raises; or the job was deleted by somebody else, or the API
                stays away.
        """
        name, namespace = self._job.name, self._job.namespace
        watchers = [
            Watcher(
                self._cluster,
                self._backend.resource,
                namespace,
                self._changes,
                fieldSelector=f"metadata.name={name}",
            ),
            Watcher(
                self._cluster,
                PODS,
                namespace,
                self._changes,
                labelSelector=self._backend.selector(name),
            ),
        ]
        with FirstLog(self._cluster, namespace, self._backend.container, self._out) as log:
            try:
                return self._turns(log, restarts_left)
            finally:
                for watcher in watchers:
                    watcher.stop()

    def _turns(self, log: FirstLog, restarts_left: int) -> Failure | None:
        view, last_line, looked, blocker = self._view, "", -_EVENTS_EVERY, None
        while True:
            self._check()
            self._take()
            if view.is_deleted:
                raise StoppedError(
                    f"job {self._job.name} was deleted by somebody else",
                    code="VT-STOP-003",
                    where=self._job.namespace,
                    remedy="run the same step again to resume from its last checkpoint",
                )
            if view.job is None:
                continue
            state, now = self._backend.state(view.job), time.monotonic()
            log.see(view.first)
            if state.phase == Phase.SUCCEEDED:
                self._look()
                log.see(view.first)
                return None
            if state.phase == Phase.FAILED:
                return self._explained(state)
            if failure := lost(view.present, time.time()):
                return failure
            if view.restarts > restarts_left:
                return _for_good(self._explained(state), restarts_left)
            # A job counts as running with its first pod, though others may be refused or find no
            # room.
            is_running = state.phase == Phase.RUNNING and view.started >= self._job.nodes
            if now - looked >= _EVENTS_EVERY:
                looked = now
                blocker = blocked(
                    view.present, () if is_running else self._events(), nodes=self._job.nodes
                )
            if failure := self._timeouts.over(is_running, blocker, now=now):
                return failure
            line = f"job {self._job.name}: {state.phase}" + (f", {blocker.what}" if blocker else "")
            if line != last_line:
                self._out(line)
                last_line = line

    def _look(self) -> None:
        """Ask for the pods as they are: what is heard of them may be behind the job, as it is when
        the API was away."""
        found, _ = self._cluster.objects(
            PODS, self._job.namespace, labelSelector=self._backend.selector(self._job.name)
        )
        self._view.take("Pod", "SYNC", found)

    def _take(self) -> None:
        """Take in what has changed; returns after a short while at the latest."""
        try:
            kind, change, thing = self._changes.get(timeout=_TURN)
            while True:
                if change == "FAILED":
                    assert isinstance(thing, VitaError)
                    raise thing
                self._view.take(kind, change, thing)
                kind, change, thing = self._changes.get_nowait()
        except Empty:
            return

    def _explained(self, state: JobState) -> Failure:
        for _ in range(4):  # the pods' own ends may come after the job's
            self._take()
        self._look()
        failure = explain(state, self._view.by_node, self._events())
        return failure if failure.tails else replace(failure, tails=self._tails)

    def _events(self) -> list[Object]:
        """Return the events about the job and its pods."""
        ours = {self._job.name, *(str(pod["metadata"]["name"]) for pod in self._view.by_node)}
        found, _ = self._cluster.objects(EVENTS, self._job.namespace)
        return [
            event
            for event in found
            if belongs(str((event.get("involvedObject") or {}).get("name") or ""), ours)
        ]

    def _keep_tail(self, pod: Object) -> None:
        """Keep a failed pod's last lines while they are there."""
        name = str(pod["metadata"]["name"])
        self._tails[name] = last_lines(
            self._cluster, self._job.namespace, name, self._backend.container
        )


def belongs(name: str, ours: Collection[str]) -> bool:
    """Say whether an object is one of ours, or was made for one of ours and named after it.

    The job of another attempt is neither: its name is ours with a number behind it.
    """
    return any(
        name == own or (name.startswith(f"{own}-") and not re.match(r"-\d+(-|$)", name[len(own) :]))
        for own in ours
    )


def _for_good(failure: Failure, restarts: int) -> Failure:
    """Return a failure as one that no further start may follow."""
    reason = Reason.CRASH if failure.reason.retryable else failure.reason
    return replace(failure, reason=reason, what=f"{failure.what} (after {restarts} restarts)")
