"""Computations that stay in float32 when the rest runs in bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the tensor's device; logarithms and distances need all
    their bits."""
    # the meta device has no autocast to switch off
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)
