"""Stochastic depth: residual branches left out by chance while training (Huang et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole samples while training; identity in eval mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        return drop_samples(branch, self.rate) if self.training else branch


def drop_samples(branch: Tensor, rate: float) -> Tensor:
    """Return a branch (N, ...) with each sample zero by chance ``rate``, the others raised to keep
    the mean."""
    if rate == 0:
        return branch
    # One draw a sample, the same for all of its positions and channels
    shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
    keep = torch.rand(shape, device=branch.device) >= rate
    return branch * keep / (1 - rate)


def depth_rates(last: float, blocks: int) -> list[float]:
    """Return the rate of each block: from 0 at the first, linearly to ``last``."""
    return [last * index / max(1, blocks - 1) for index in range(blocks)]


def drop_outputs(ends: Iterable[nn.Module], rate: float) -> None:
    """Make the outputs of modules that end residual branches subject to stochastic depth; no tensor
    name changes."""
    if rate:
        # A hook is no module: a wrapper would change the names of the weights
        for end in ends:
            end.register_forward_hook(partial(_dropped, rate))


def _dropped(rate: float, module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return drop_samples(output, rate) if module.training else output
