"""Curves keep their shape when thinned, and nothing that is not a number reaches a drawing."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from vita_train.report.charts import (
    Curve,
    line_chart,
    nice_ticks,
    smooth,
    strip,
    thin,
    waveform,
)


def test_thinning_keeps_mean_and_order_and_drops_what_is_not_a_number() -> None:
    x = list(range(1000))
    x_thin, y_thin = thin(x, [float(v) for v in x], 100)
    assert len(x_thin) == 100
    assert x_thin == sorted(x_thin)
    assert np.mean(y_thin) == pytest.approx(np.mean(x))
    assert thin([1, 2, 3], [1.0, math.nan, 3.0]) == ([1, 3], [1.0, 3.0])


def test_the_running_mean_of_a_constant_is_the_constant_from_the_first_step() -> None:
    assert smooth([2.0, 2.0, 2.0], 10) == pytest.approx([2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0, 1, [0, 0.5, 1.0]), (0, 10, [0, 5, 10]), (3, 3, [3])]
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("y", [[1.0], [0.0, 0.0], [1e-9, 1e9], [math.inf, 1.0, 2.0], [-1.0, 5.0]])
@pytest.mark.parametrize("log", [False, True])
def test_drawings_hold_finite_numbers_only(y: list[float], log: bool) -> None:
    drawing = str(line_chart([Curve(list(range(len(y))), y, "main")], title="t", log=log))
    drawing += str(strip(list(range(len(y))), y, title="t")) + str(waveform(np.asarray([0.0])))
    assert not re.search(r"\b(nan|inf)\b", drawing)


def test_nothing_to_draw_is_nothing() -> None:
    assert line_chart([Curve([], [], "main")], title="t") == ""
    assert waveform(np.zeros(0)) == ""


def test_titles_are_escaped() -> None:
    assert "<b>" not in str(line_chart([Curve([1], [1.0], "main")], title="<b>"))
