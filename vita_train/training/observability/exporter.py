"""Serves a rank's readings to Prometheus. Off unless
`vita_train.training.observability.metrics.PORT` names a port."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vita_train.console import say
from vita_train.training.observability import metrics
from vita_train.training.observability.telemetry import GIB, MetricsSnapshot

_LAST_PORT = 65535


class SnapshotCollector(Collector):
    """Turns readings into metrics whenever somebody asks.

    Args:
        snapshot: what the loop writes.
        labels: value of each of ``metrics.LABELS``.
        info: value of each of ``metrics.INFO_LABELS``.
        ranks: ranks of the stage.
        full_speed: tokens/s of all ranks at an MFU of 1; None where that is not known.
        committed_at: gives the ``time.monotonic()`` of the last commit; None on ranks that do not
            commit.
    """

    def __init__(
        self,
        snapshot: MetricsSnapshot,
        labels: Mapping[str, str],
        info: Mapping[str, str],
        *,
        ranks: int,
        full_speed: float | None,
        committed_at: Callable[[], float | None] | None,
    ) -> None:
        self._snapshot = snapshot
        self._labels = dict(labels)
        self._info = dict(info)
        self._ranks = ranks
        self._full_speed = full_speed
        self._committed_at = committed_at
        self._started = time.monotonic()

    def collect(self) -> Iterable[Metric]:
        """Give every metric that has a value by now."""
        for name, value in self._values().items():
            if value is None:
                continue
            labels = {**self._labels, **self._info} if name == metrics.INFO else self._labels
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, metrics.HELP[name], labels=tuple(labels))
            family.add_metric(tuple(labels.values()), value)
            yield family

    def _values(self) -> dict[str, float | None]:
        now = self._snapshot
        speed, full = now.tokens_per_s, self._full_speed
        return {
            metrics.INFO: 1,
            metrics.RANKS: self._ranks,
            metrics.STEP: now.step,
            metrics.STEPS: now.steps,
            metrics.LOSS: now.loss,
            metrics.TOKENS_PER_S: speed,
            metrics.MFU: None if speed is None or full is None else speed / full,
            metrics.DATA_WAIT: now.data_wait,
            metrics.DATA_WAIT_S: now.data_wait_s,
            metrics.MEMORY: None if now.memory_gib is None else now.memory_gib * GIB,
            metrics.COMMIT_AGE: self._age(),
        }

    def _age(self) -> float | None:
        if self._committed_at is None:
            return None
        return time.monotonic() - (self._committed_at() or self._started)


@contextmanager
def served(
    collector: Collector, local_rank: int, environ: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """Serve a collector over HTTP on every interface during the block, if the environment names a
    port.

    A port that cannot be had costs the metrics and a line in the log, never the training: hours on
    GPUs are worth more than their curves, which are in the run log anyway, and the alert on missing
    ranks tells whoever watches.
    """
    asked = environ.get(metrics.PORT, "")
    if not asked:
        yield
        return
    # 0 is no port either and ends in the same warning
    port = int(asked) + local_rank if asked.isdecimal() else 0
    # A registry of its own: the library's default one adds metrics of the process
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        if not 0 < port <= _LAST_PORT:
            raise OSError(f"no port between 1 and {_LAST_PORT}")
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        say(
            f"warning: this rank trains without metrics, on port {port or asked!r}: "
            f"{error.strerror or error}; "
            f"set {metrics.PORT} to another port"
        )
        yield
        return
    try:
        yield
    finally:
        # In this order: the thread ends once the server has stopped listening
        server.shutdown()
        server.server_close()
        thread.join()
