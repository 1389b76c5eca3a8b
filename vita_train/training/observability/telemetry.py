"""Throughput, waiting and memory between two log lines; the newest values of all; how fast a device
could be."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from vita_train.gpus import TERA, bfloat16_flops
from vita_train.training.observability.metrics import PEAK

GIB = 2**30
#: Pages this process uses, on Linux.
_STATM = Path("/proc/self/statm")


@dataclass
class MetricsSnapshot:
    """The newest values of one rank. The loop writes them; the exporter reads them from its own
    thread."""

    step: int = 0
    steps: int = 0
    data_wait_s: float = 0.0
    """Seconds this process has waited for data."""
    loss: float | None = None
    """This and what follows: of the last logged interval, None before the first."""
    tokens_per_s: float | None = None
    """Of all ranks together."""
    data_wait: float | None = None
    """Share of the time, 0 to 1."""
    memory_gib: float | None = None
    """Most memory so far, GiB."""

    def log(self, loss: float, rates: Mapping[str, float], memory_gib: float) -> None:
        """Take over what an interval gave; ``rates`` as `Throughput.read` returns them."""
        self.loss, self.memory_gib = loss, memory_gib
        self.tokens_per_s, self.data_wait = rates["tokens_per_s"], rates["data_wait"]


class Throughput:
    """Counts tokens, samples and seconds since the last reading. Counts are those of all ranks."""

    def __init__(self) -> None:
        self._started, self._computed = time.perf_counter(), time.process_time()
        self._waited = 0.0
        self._tokens = 0.0
        self._samples = 0.0
        self._sources: Counter[str] = Counter()

    def waited(self, seconds: float) -> None:
        """Add time spent waiting for data."""
        self._waited += seconds

    def count(self, tokens: float, samples: float) -> None:
        """Add what a global batch held."""
        self._tokens += tokens
        self._samples += samples

    def count_sources(self, ids: Iterable[str]) -> None:
        """Add the samples of a global batch by their datasets, which their ids begin with."""
        self._sources.update(name.partition("/")[0] for name in ids)

    def read(self) -> dict[str, float]:
        """Return rates since the last reading and start anew: tokens/s, samples/s of all and of
        each dataset, share of time without data, processors that this process kept busy."""
        now = time.perf_counter()
        seconds = max(now - self._started, 1e-9)
        rates = {
            "tokens_per_s": self._tokens / seconds,
            "samples_per_s": self._samples / seconds,
            **{
                f"samples_per_s.{name}": count / seconds
                for name, count in sorted(self._sources.items())
            },
            "data_wait": min(1.0, self._waited / seconds),
            "cpu_cores": (time.process_time() - self._computed) / seconds,
        }
        self.__init__()  # type: ignore[misc]
        return rates


def peak_memory(device: torch.device) -> float:
    """Return the most memory this rank has held so far, GiB: allocated on the GPU, or resident
    without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    # ru_maxrss is in bytes on macOS and in KiB on Linux
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def machine_usage(device: torch.device) -> dict[str, float]:
    """Return what this rank uses at the moment: memory in GiB, allocated on the GPU or resident
    without one, and the share of time that the GPU computes, where its driver's library says."""
    if device.type != "cuda":
        if not _STATM.exists():
            return {}
        # The second field is the resident set, in pages
        resident = int(_STATM.read_text().split()[1])
        return {"memory_now_gib": resident * resource.getpagesize() / GIB}
    used = {"memory_now_gib": torch.cuda.memory_allocated(device) / GIB}
    with suppress(ModuleNotFoundError, RuntimeError):  # it needs NVIDIA's library for Python
        used["gpu_busy"] = torch.cuda.utilization(device) / 100
    return used


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return what a device computes at best, FLOP/s: what the environment says, else from the list,
    else None."""
    try:
        teraflops = float(os.environ.get(PEAK) or 0)
    except ValueError:
        teraflops = 0.0
    if teraflops > 0:
        return teraflops * TERA
    # The list has bfloat16 figures alone: other types have other peaks
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    return bfloat16_flops(torch.cuda.get_device_name(device))


def full_speed(flops_per_token: float | None, ranks: int, peak: float | None) -> float | None:
    """Return the tokens/s of all ranks at which model FLOP/s reach the devices' peak; None where it
    is not known."""
    return ranks * peak / flops_per_token if flops_per_token and peak else None
