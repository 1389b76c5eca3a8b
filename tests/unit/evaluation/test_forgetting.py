"""The forgetting table: carried values, and the largest fall below the best earlier value."""

from __future__ import annotations

import math

import pytest

from vita_train.evaluation.forgetting import forgetting_table


def test_largest_fall_is_taken_from_the_best_earlier_stage() -> None:
    table = forgetting_table(
        {
            "0.llm": {"textqa.test.accuracy": 0.80},
            "1.2": {"textqa.test.accuracy": 0.86},
            "1.3": {"textqa.test.accuracy": 0.84, "vqa.test_seen.accuracy": 0.7},
            "2.2": {"textqa.test.accuracy": 0.81, "vqa.test_seen.accuracy": 0.72},
        }
    )
    fall = table.largest_fall()
    assert fall is not None
    assert (fall.measure, fall.best_stage, fall.stage) == ("textqa.test.accuracy", "1.2", "2.2")
    assert fall.points == pytest.approx(5.0)
    assert len(table.falls()) == 1, "a measure that only rose has not fallen"


def test_error_rates_fall_by_rising() -> None:
    fall = forgetting_table(
        {"2.1a": {"asr.test.wer": 0.03}, "2.2": {"asr.test.wer": 0.10}}
    ).largest_fall()
    assert fall is not None
    assert fall.points == pytest.approx(7.0)


def test_a_stage_that_could_not_change_a_measure_carries_it() -> None:
    table = forgetting_table({"1.3": {"vqa.test.accuracy": 0.7}, "2.1a": {"asr.test.wer": 0.1}})
    assert table.value("vqa.test.accuracy", "2.1a") == 0.7
    assert table.value("asr.test.wer", "1.3") is None
    assert table.largest_fall() is None


def test_dev_measures_of_different_stages_are_not_compared() -> None:
    assert (
        forgetting_table({"1.1": {"dev.accuracy": 0.9}, "2.1a": {"dev.accuracy": 0.1}}).measured
        == {}
    )


def test_losses_are_not_in_points_and_stay_out() -> None:
    table = forgetting_table({"1.1": {"caption.test.loss": 1.0}, "1.2": {"caption.test.loss": 3.0}})
    assert table.measured == {}


def test_a_measure_that_became_nan_is_the_largest_fall() -> None:
    fall = forgetting_table(
        {"1": {"a.accuracy": 0.9}, "2": {"a.accuracy": math.nan}}
    ).largest_fall()
    assert fall is not None
    assert fall.points == 100.0
