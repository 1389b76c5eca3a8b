"""Gates let a stage pass only when every measure was taken and lies within its bounds."""

from __future__ import annotations

import math

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import EXIT_REFUSED, GateError
from vita_train.evaluation.gates import check_gates, gate_results
from vita_train.recipe.stage import StageSpec


def stage(**gates: dict[str, float]) -> StageSpec:
    named = {name.replace("__", "."): bounds for name, bounds in gates.items()}
    return StageSpec.model_validate(
        {
            "objective": "next_token",
            "data": {"vqa": 1},
            "trainable": {"llm": 1e-3},
            "steps": 1,
            "gates": named,
        }
    )


def test_met_gates_let_the_stage_pass() -> None:
    spec = stage(vqa__test_seen__accuracy={"min": 0.75}, asr__test__wer={"max": 0.05})
    check_gates(spec, {"vqa.test_seen.accuracy": 0.75, "asr.test.wer": 0.05})


def test_every_failed_gate_is_named_with_value_and_bound() -> None:
    spec = stage(a__accuracy={"min": 0.75}, b__wer={"max": 0.05}, c__accuracy={"min": 0.1})
    with pytest.raises(GateError) as error:
        check_gates(spec, {"a.accuracy": 0.5, "b.wer": 0.25, "c.accuracy": 0.9}, where="stage 1.3")
    text = str(error.value)
    assert "a.accuracy is 0.5, must be at least 0.75" in text
    assert "b.wer is 0.25, must be at most 0.05" in text
    assert "c.accuracy" not in text
    assert text.startswith("stage 1.3: ")
    assert error.value.exit_code == EXIT_REFUSED


@pytest.mark.parametrize("metrics", [{}, {"a.accuracy": math.nan}])
def test_a_measure_that_is_missing_or_not_a_number_meets_no_gate(metrics: dict[str, float]) -> None:
    with raises_code(GateError, "VT-GATE-001", "a.accuracy"):
        check_gates(stage(a__accuracy={"min": 0.0}), metrics)


def test_a_gate_may_have_two_bounds() -> None:
    spec = stage(a__loss={"min": 1.0, "max": 2.0})
    assert [gate_results(spec, {"a.loss": value})[0].met for value in (0.9, 1.0, 2.0, 2.1)] == [
        False,
        True,
        True,
        False,
    ]
