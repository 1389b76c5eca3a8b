"""How many steps a stage trains, and at which rate, before and after its measures are reached."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vita_train.recipe.stage import StageSpec
from vita_train.training.optim.schedule import rate_factor
from vita_train.training.step_plan import StepPlan

REACHED = {"a.dev.accuracy": 0.95}
MISSED = {"a.dev.accuracy": 0.85}


def plan(**settings: Any) -> StepPlan:
    spec = StageSpec.model_validate(
        {"objective": "next_token", "data": {"a": 1}, "trainable": {"llm": 1e-3}, **settings}
    )
    return StepPlan(spec, spec.most_steps or 0)


def until(**settings: Any) -> StepPlan:
    return plan(
        **{
            "until": {"a.dev.accuracy": {"min": 0.9}},
            "max_steps": 100,
            "check_interval": 10,
            "optim": {"warmup": 5, "decay": 20},
            **settings,
        }
    )


def test_a_stage_of_fixed_length_follows_its_schedule() -> None:
    stage = plan(steps=40, optim={"warmup": 4})
    assert stage.end == 40
    assert [stage.rate_factor(step) for step in range(40)] == [
        rate_factor(step, 40, stage.spec.optim) for step in range(40)
    ]
    assert not any(stage.is_due(step) for step in range(41))


def test_the_rate_stays_at_its_peak_until_the_decay() -> None:
    stage = plan(steps=40, optim={"warmup": 4, "decay": 0.25})
    factors = [stage.rate_factor(step) for step in range(40)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert set(factors[4:31]) == {1.0}
    assert factors[35] == pytest.approx(0.5)
    assert factors[39] == pytest.approx(0.0245, abs=1e-4)


def test_the_decay_begins_when_the_measures_are_met_and_the_stage_ends_with_it() -> None:
    stage = until()
    assert stage.end == 100
    assert [step for step in range(1, 101) if stage.is_due(step)] == [10, 20, 30, 40, 50, 60, 70]
    assert not stage.record(20, MISSED)
    assert not stage.record(30, {})
    assert stage.end == 100
    assert stage.record(40, REACHED)
    assert (stage.decay_from, stage.end) == (40, 60)
    factors = [stage.rate_factor(step) for step in range(60)]
    assert set(factors[4:41]) == {1.0}
    assert factors[50] == pytest.approx(0.5)
    assert not any(stage.is_due(step) for step in range(41, 61))


def test_a_stage_that_never_gets_there_decays_in_time() -> None:
    stage = until()
    factors = [stage.rate_factor(step) for step in range(100)]
    assert set(factors[4:81]) == {1.0}
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] < 0.01


def test_what_was_met_is_all_a_resumed_stage_needs() -> None:
    stage = until()
    stage.record(40, REACHED)
    again = StepPlan(stage.spec, 100, dict(stage.met))
    assert (again.end, again.decay_from) == (60, 40)


def test_phases_end_early_and_the_stage_is_checked_from_there() -> None:
    phases = [
        {"max_steps": 40, "data": {"b": 1}, "until": {"b.dev.accuracy": {"min": 0.9}}},
        {"steps": 7, "data": {"c": 1}},
    ]
    stage = until(curriculum=phases)
    assert stage.phase_ends == [40, 47]
    assert [step for step in range(1, 60) if stage.is_due(step)] == [10, 20, 30, 57]
    assert stage.pending(20) == "curriculum.0"
    assert stage.pending(43) is None
    assert stage.record(20, {"b.dev.accuracy": 1.0})
    assert stage.phase_ends == [20, 27]
    assert [step for step in range(21, 60) if stage.is_due(step)] == [37, 47, 57]
    assert stage.record(47, REACHED)
    assert stage.end == 67


def test_extensions_follow_the_end_whenever_that_is() -> None:
    stage = until(extend=[30, 10])
    assert stage.end == 140
    stage.record(40, REACHED)
    assert stage.end == 100
    factors = [stage.rate_factor(step) for step in range(100)]
    assert factors[:60] == [until_factor for until_factor in _factors_without_extension()]
    assert factors[60:64] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert factors[63] > factors[89] > 0
    assert factors[90] == 1.0
    assert [stage.extensions_begun(step) for step in (60, 61, 90, 91)] == [[], [30], [30], [30, 10]]


def _factors_without_extension() -> list[float]:
    stage = until()
    stage.record(40, REACHED)
    return [stage.rate_factor(step) for step in range(60)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "steps"),
        ({"steps": 5, "epochs": 1}, "exactly one"),
        ({"max_steps": 5}, "belongs to until"),
        ({"until": {"a.dev.loss": {"max": 1}}}, "max_steps"),
        ({"until": {"a.dev.loss": {"max": 1}}, "max_steps": 5, "steps": 5}, "both say"),
        ({"steps": 5, "extend": [0]}, "greater than or equal to 1"),
        ({"steps": 5, "curriculum": [{"data": {"a": 1}}]}, "steps"),
        ({"steps": 5, "curriculum": [{"data": {"a": 1}, "max_steps": 2}]}, "belongs to until"),
        (
            {
                "max_steps": 5,
                "until": {"a.dev.loss": {"max": 1}},
                "curriculum": [{"data": {"a": 1}, "steps": 5}],
            },
            "more than that",
        ),
    ],
)
def test_lengths_that_are_not_said_or_said_twice(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        plan(**settings)
