"""A loss is flat where the mean over a window is no better than the best before, whatever its
noise."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from vita_train.recipe.flat import FlatSpec
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.training.flat_loss import FlatLoss

SPEC = FlatSpec(steps=100, tolerance=0.01)


def _flat_at(loss: Callable[[int], float], state: dict[str, Any], steps: range) -> list[int]:
    flat = FlatLoss(SPEC, state)
    return [step for step in steps if flat.is_flat(step, loss(step))]


def test_noise_larger_than_the_gain_does_not_make_a_falling_loss_flat() -> None:
    noise = random.Random(0)
    assert _flat_at(lambda step: 3 - 0.002 * step + noise.gauss(0, 0.3), {}, range(1, 1000)) == []


def test_a_loss_is_flat_at_the_end_of_each_window_that_gains_nothing() -> None:
    noise, state = random.Random(0), dict[str, Any]()

    def loss(step: int) -> float:
        return max(1.0, 3 - 0.01 * step) + noise.gauss(0, 0.01)

    assert _flat_at(loss, state, range(1, 602)) == [401, 501, 601]
    assert abs(FlatLoss(SPEC, state).best - 1.0) < 0.01
    assert FlatLoss(SPEC, state).since == 301


def test_a_resumed_stage_finds_the_same() -> None:
    whole, parts = dict[str, Any](), dict[str, Any]()
    found = _flat_at(lambda step: 2.0, whole, range(1, 400))
    again = _flat_at(lambda step: 2.0, parts, range(1, 250))
    again += _flat_at(lambda step: 2.0, parts, range(250, 400))
    assert found == again
    assert whole == parts


def test_a_recipe_that_does_not_speak_of_it_is_written_as_before() -> None:
    assert "flat" not in dump_recipe(load_recipe("smoke"))
    changed = load_recipe("smoke", ["stages.1.1.flat.stop=true"])
    assert load_recipe(dump_recipe(changed)).stages["1.1"].flat == FlatSpec(stop=True)
