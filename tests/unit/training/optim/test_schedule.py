"""The learning-rate factor."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from pydantic import ValidationError

from vita_train.recipe.stage import OptimSpec
from vita_train.training.optim.schedule import rate_factor, warmup_steps


def test_warmup_reaches_the_peak_and_cosine_falls_to_the_end() -> None:
    optim = OptimSpec(warmup=4, min_lr_ratio=0.1)
    factors = [rate_factor(step, 100, optim) for step in range(100)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert all(a >= b for a, b in pairwise(factors[4:]))
    assert factors[52] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 48 / 96)))
    assert rate_factor(100, 100, optim) == pytest.approx(0.1)


def test_share_of_steps() -> None:
    assert warmup_steps(OptimSpec(warmup=0.03), 200) == 6
    assert warmup_steps(OptimSpec(warmup=1), 200) == 1
    assert warmup_steps(OptimSpec(warmup=500), 200) == 200


def test_linear() -> None:
    optim = OptimSpec(schedule="linear", warmup=2, min_lr_ratio=0.5)
    assert [rate_factor(step, 6, optim) for step in range(7)] == pytest.approx(
        [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5]
    )


def test_exponential_and_constant() -> None:
    optim = OptimSpec(schedule="exponential", warmup=0, min_lr_ratio=0.25)
    assert [rate_factor(step, 2, optim) for step in range(3)] == pytest.approx([1.0, 0.5, 0.25])
    assert rate_factor(7, 9, OptimSpec(schedule="constant", warmup=0)) == 1.0
    with pytest.raises(ValidationError, match="min_lr_ratio above 0"):
        OptimSpec(schedule="exponential", warmup=0)
