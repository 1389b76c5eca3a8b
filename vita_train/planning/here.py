"""What this machine has and reaches: its GPUs, or its processors, measured in a few seconds."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from vita_train.planning.devices import GIGA, TERA, Device, Fractions, plain_device

#: Sides of the matrices that are multiplied, and elements of the vector that is added to.
_SIDE, _SIDE_GPU, _ELEMENTS = 384, 8192, 2**24
_REPEATS = 3


@dataclass(frozen=True)
class Here:
    """This machine."""

    name: str
    count: int
    """Devices of that kind; processes share a machine without any."""
    device: Device
    node_memory: int
    """Bytes that may be taken now."""
    disk: int
    """Bytes that are free where runs are stored."""


def this_machine(root: Path) -> Here:
    """Look at this machine and measure what it reaches in matrix products and in memory traffic.

    Args:
        root: where runs are stored.
    """
    memory = free_memory()
    while not root.exists() and root != root.parent:
        root = root.parent
    disk = shutil.disk_usage(root).free
    if torch.cuda.is_available():
        index = torch.device("cuda", 0)
        return Here(
            torch.cuda.get_device_name(index),
            torch.cuda.device_count(),
            _measured(index, torch.cuda.mem_get_info(index)[0]),
            memory,
            disk,
        )
    return Here("processor", 1, _measured(torch.device("cpu"), memory), memory, disk)


def _measured(device: torch.device, memory: int) -> Device:
    on_gpu = device.type == "cuda"
    side = _SIDE_GPU if on_gpu else _SIDE
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(side, side, dtype=dtype, device=device)
        taken = _fastest(partial(torch.mm, matrix, matrix), device)
        rates[dtype] = 2 * side**3 / taken / TERA
    vector = torch.ones(_ELEMENTS, device=device)
    traffic = 2 * 4 * _ELEMENTS / _fastest(lambda: vector.add_(1), device) / GIGA
    small = torch.ones(8, device=device)
    return plain_device(memory, gpu=on_gpu).model_copy(
        update={
            "bandwidth": traffic,
            "bfloat16": rates[torch.bfloat16],
            "float32": rates[torch.float32],
            "launch": _fastest(lambda: small.add_(1), device),
            # What was measured is what is reached; of memory nothing else takes any.
            "fractions": Fractions(compute=1.0, bandwidth=1.0, memory=0.95),
            "measured": True,
        }
    )


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of some calls."""
    call()
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def free_memory() -> int:
    """Return the bytes that may be taken, of the machine or of the container that this runs in."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        available = min(available, int(text) - int(used.read_text(encoding="utf-8")))
    return max(available, 0)
