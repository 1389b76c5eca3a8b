"""Throughput, waiting and memory between two log lines."""

from __future__ import annotations

import resource
import sys
import time

import torch

_GIB = 2**30


class Meter:
    """Counts tokens, samples and seconds since the last reading. Counts are those of all ranks."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._waited = 0.0
        self._tokens = 0.0
        self._samples = 0.0

    def waited(self, seconds: float) -> None:
        """Add time spent waiting for data."""
        self._waited += seconds

    def count(self, tokens: float, samples: float) -> None:
        """Add what a global batch held."""
        self._tokens += tokens
        self._samples += samples

    def read(self) -> dict[str, float]:
        """Return rates since the last reading and start anew: tokens/s, samples/s, share of time without data."""
        now = time.perf_counter()
        seconds = max(now - self._started, 1e-9)
        rates = {"tokens_per_s": self._tokens / seconds, "samples_per_s": self._samples / seconds,
                 "data_wait": min(1.0, self._waited / seconds)}
        self.__init__()  # type: ignore[misc]
        return rates


def peak_memory(device: torch.device) -> float:
    """Return the most memory this rank has held so far, GiB: allocated on the GPU, or resident without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
