"""Following a pod's log as if it were our own output: across cut connections and restarts of the
container."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kubernetes.client.exceptions import ApiException

from vita_train.launch.kubernetes.api import BROKEN, Cluster
from vita_train.launch.kubernetes.job import Object
from vita_train.launch.kubernetes.job_view import restart_count

_PAUSE = 2.0
#: How often, and after how many seconds, the end of a log is asked for again.
_LAST_TRIES, _LAST_PAUSE = 10, 1.0
#: Answers that no asking changes once a container has ended: no right, no pod, no log.
_NEVER = (400, 403, 404)


class LogFollower:
    """A thread that writes one pod's log, line by line, each line once.

    Lines carry the kubelet's time in front, to the nanosecond: what was written up to the last one
    seen is skipped when a connection comes back. A container that was restarted is read to its end
    before the next one.

    Args:
        cluster, namespace, pod, container: whose log.
        write: takes each line, without its time.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        pod: str,
        container: str,
        write: Callable[[str], None],
    ) -> None:
        self._cluster, self._namespace, self._pod, self._container = (
            cluster,
            namespace,
            pod,
            container,
        )
        self._write = write
        self._last = ""
        self._restarts = 0
        self._seen_restarts = 0
        self._is_refused = False
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"log-{pod}", daemon=True)
        self._thread.start()

    def restarted(self, count: int) -> None:
        """Tell how often the container was restarted by now."""
        self._restarts = count

    def finish(self, timeout: float = 10.0) -> None:
        """Read what is left of a container that has ended, and stop."""
        self._over.set()
        self._thread.join(timeout)
        if (
            self._thread.is_alive()
        ):  # it waits on a connection that broke and does not know it: ask anew
            self._read_rest()

    def _run(self) -> None:
        while True:
            # Asked before reading: what is written until then is still read below
            is_over = self._over.is_set()
            if self._restarts > self._seen_restarts:
                self._seen_restarts = self._restarts
                self._read(previous="true")
            if is_over:
                self._read_rest()
                return
            self._read(follow="true")
            self._over.wait(_PAUSE)

    def _read_rest(self) -> None:
        """Read to the end: nobody asks again, so what breaks is tried again here."""
        for _ in range(_LAST_TRIES):
            if self._read():
                return
            time.sleep(_LAST_PAUSE)

    def _read(self, **query: str) -> bool:
        """Write what is new; say whether that was all, which it is too where no log can be had."""
        # sinceTime knows whole seconds: what comes twice is told by its full stamp below
        since = {"sinceTime": self._last[:19] + "Z"} if self._last else {}
        try:
            for line in self._cluster.log(
                self._namespace, self._pod, self._container, timestamps="true", **since, **query
            ):
                stamp, _, text = line.partition(" ")
                # finish may read beside the thread, and each line is to be written once
                with self._writing:
                    if stamp > self._last:
                        self._last = stamp
                        self._write(text)
        except BROKEN as error:
            # Else it has not started, is gone, or the connection was cut: the next turn tells.
            if isinstance(error, ApiException) and error.status == 403 and not self._is_refused:
                self._is_refused = True
                self._write(
                    f"warning: the log of pod {self._pod} may not be read, the job goes on without "
                    f"it; the "
                    "chart's Role allows it (pods/log): install or upgrade it, and use its service "
                    "account"
                )
            return isinstance(error, ApiException) and error.status in _NEVER
        return True


def last_lines(cluster: Cluster, namespace: str, pod: str, container: str, lines: int = 50) -> str:
    """Return the end of a pod's log, indented; empty where there is none to be had any more."""
    try:
        found = list(cluster.log(namespace, pod, container, tailLines=str(lines)))
    except BROKEN:
        return ""
    return "\n".join(f"  | {line}" for line in found)


class FirstLog:
    """Follows the log of whichever pod holds rank 0 now."""

    def __init__(
        self, cluster: Cluster, namespace: str, container: str, out: Callable[[str], None]
    ) -> None:
        self._cluster, self._namespace, self._container, self._out = (
            cluster,
            namespace,
            container,
            out,
        )
        self._uid = ""
        self._log: LogFollower | None = None

    def __enter__(self) -> FirstLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log:
            self._log.finish()

    def see(self, pod: Object | None) -> bool:
        """Follow this pod from now on, if it is another than before and has begun; say whether it
        has."""
        if pod is None or (pod.get("status") or {}).get("phase") in (None, "Pending"):
            return False
        if pod["metadata"]["uid"] != self._uid:
            if self._log:
                self._log.finish()
            self._uid = str(pod["metadata"]["uid"])
            self._log = LogFollower(
                self._cluster,
                self._namespace,
                str(pod["metadata"]["name"]),
                self._container,
                self._out,
            )
        if self._log:
            self._log.restarted(restart_count(pod))
        return True
