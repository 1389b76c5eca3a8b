"""How long calls take: as long as their arithmetic or their memory traffic, whichever takes longer
(Williams, Waterman and Patterson 2009), each at the share of the device's best that is reached."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vita_train.planning.devices import GIGA, Device
from vita_train.planning.trace import Kernel

_HALF = (torch.bfloat16, torch.float16)


def seconds_of(kernels: Mapping[Kernel, int], device: Device) -> float:
    """Return the seconds that calls take one after the other."""
    bandwidth = device.bandwidth * GIGA * device.fractions.bandwidth
    total = 0.0
    for kernel, count in kernels.items():
        computing = kernel.flops / device.flops(half=kernel.dtype in _HALF)
        total += count * max(computing, kernel.moved / bandwidth, device.launch)
    return total


def flops_of(kernels: Mapping[Kernel, int]) -> float:
    """Return the floating-point operations of matrix products, those that are repeated among
    them."""
    return sum(kernel.flops * count for kernel, count in kernels.items())
