"""Watching objects without missing a change: list, watch from there, and list again whenever the
watch breaks."""

from __future__ import annotations

import threading
from queue import Queue
from typing import Any

from vita_train.errors import VitaError
from vita_train.launch.kubernetes.api import BROKEN, Cluster, GoneError
from vita_train.launch.kubernetes.kind import Resource

PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0


class Watcher:
    """A thread that hands every change of some objects to a queue.

    What is handed over: ``(kind, "SYNC", [objects])`` after each listing, ``(kind,
    "ADDED|MODIFIED|DELETED", object)`` for changes, and ``(kind, "FAILED", error)`` once, as the
    last, when the API stayed away too long or refuses.

    Args:
        cluster: where to watch.
        resource: what.
        namespace: where.
        changes: the queue.
        query: ``labelSelector``, ``fieldSelector``.
    """

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        namespace: str,
        changes: Queue[tuple[str, str, Any]],
        **query: str,
    ) -> None:
        self._cluster, self._resource, self._namespace = cluster, resource, namespace
        self._changes, self._query = changes, query
        self._stopped = threading.Event()
        # A daemon: a stream that stays silent must not keep the process
        threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True).start()

    def stop(self) -> None:
        """Hand over nothing more. The thread itself ends with its stream."""
        self._stopped.set()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopped.is_set():
            try:
                listed, version = self._cluster.objects(
                    self._resource, self._namespace, **self._query
                )
            except VitaError as error:
                self._hand("FAILED", error)
                return
            self._hand("SYNC", listed)
            try:
                # A stream that gave something was a good one: the next break is a new one
                if self._stream(version):
                    pause = _FIRST_PAUSE
            except GoneError:
                pause = _FIRST_PAUSE
            except (*BROKEN, ValueError):
                # Listing again tells whether it is over, and waits for the API as long as allowed
                pass
            self._stopped.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _stream(self, version: str) -> bool:
        """Hand over changes until the stream ends; says whether there were any."""
        any_came = False
        for kind, thing in self._cluster.watch(
            self._resource, self._namespace, version, **self._query
        ):
            if self._stopped.is_set():
                return any_came
            any_came = True
            # Says only that nothing changed until then
            if kind != "BOOKMARK":
                self._hand(kind, thing)
        return any_came

    def _hand(self, kind: str, thing: Any) -> None:
        if not self._stopped.is_set():
            self._changes.put((self._resource.kind, kind, thing))
