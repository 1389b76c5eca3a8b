"""Learning-rate factor as a pure function of the step."""

from __future__ import annotations

import math

from vita_train.recipe.stage import OptimSpec


def warmup_steps(optim: OptimSpec, steps: int) -> int:
    """Return the number of warm-up steps: ``warmup`` itself, or a share of ``steps`` when below
    1."""
    return min(steps, round(optim.warmup * steps if optim.warmup < 1 else optim.warmup))


def decay_steps(optim: OptimSpec, steps: int) -> int | None:
    """Return the steps of the decay: ``decay`` itself, or a share of ``steps`` when below 1. None
    if it is not set."""
    if optim.decay is None:
        return None
    return min(steps, max(1, round(optim.decay * steps if optim.decay < 1 else optim.decay)))


def rate_factor(step: int, steps: int, optim: OptimSpec, *, decay_from: int = 0) -> float:
    """Return the factor on every peak rate at ``step`` (from 0) of ``steps``.

    Linear warm-up that reaches 1 at its last step; 1 until ``decay_from``, if the warm-up ends
    before it; then from 1 towards ``optim.min_lr_ratio``, which would be met at step ``steps``:
    along half a cosine, along a line, geometrically, or not at all (constant).
    """
    warmup = warmup_steps(optim, steps)
    if step < warmup:
        # From 1, not from 0: a first step at rate 0 would be a batch for nothing.
        return (step + 1) / warmup
    start = max(warmup, decay_from)
    progress = min(1.0, max(0, step - start) / max(1, steps - start))
    if optim.schedule == "constant":
        return 1.0
    if optim.schedule == "cosine":
        return optim.min_lr_ratio + (1 - optim.min_lr_ratio) * 0.5 * (
            1 + math.cos(math.pi * progress)
        )
    if optim.schedule == "linear":
        return optim.min_lr_ratio + (1 - optim.min_lr_ratio) * (1 - progress)
    return float(optim.min_lr_ratio**progress)
