"""Dealing rows: every row once, ranks that wait for each other with as much to do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita_train.data.sampling.deal import Costs, balance, deal


def in_turn(count: int, ranks: int, parts: int) -> list[list[np.ndarray]]:
    """Rows r, r + ranks, ... to rank r, cut evenly."""
    return [
        [np.array_split(np.arange(rank, count, ranks), parts)[part] for rank in range(ranks)]
        for part in range(parts)
    ]


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 30), st.integers(0, 99))
def test_every_row_stands_in_one_micro_batch(ranks: int, parts: int, more: int, seed: int) -> None:
    count = ranks * parts + more
    dealt = deal(np.random.default_rng(seed).random(count), ranks, parts)
    assert len(dealt) == parts
    assert all(len(part) == ranks for part in dealt)
    assert all(len(rows) for part in dealt for rows in part)
    places = np.concatenate([rows for part in dealt for rows in part])
    assert sorted(places.tolist()) == list(range(count))


@pytest.mark.parametrize("ranks", [8, 64, 1024])
def test_ranks_that_wait_for_each_other_have_as_much_to_do(ranks: int) -> None:
    costs = np.random.default_rng(0).uniform(0.4, 1, 16 * ranks)  # rows are bounded
    dealt = deal(costs, ranks, 16)
    assert balance(costs, in_turn(len(costs), ranks, 16)) < 0.81
    assert balance(costs, dealt) > 0.96
    totals = [sum(costs[part[rank]].sum() for part in dealt) for rank in range(ranks)]
    assert max(totals) < 1.02 * float(np.mean(totals))


@pytest.mark.parametrize(("ranks", "parts"), [(1, 4), (3, 1)])
def test_one_rank_or_one_micro_batch_take_rows_in_turn(ranks: int, parts: int) -> None:
    dealt = deal(np.arange(12)[::-1], ranks, parts)
    for part, expected in zip(dealt, in_turn(12, ranks, parts), strict=True):
        assert [rows.tolist() for rows in part] == [rows.tolist() for rows in expected]


def test_costs_are_sums_over_parts_and_pairs() -> None:
    lengths = np.array([[10, 2, 0], [4, 0, 30]])
    costs = Costs(token=1.0, tile=100.0, frame=2.0, pair=0.5)
    assert costs.of(lengths).tolist() == [10 + 200 + 50, 4 + 60 + 8]


def test_balance_is_the_mean_over_the_slowest() -> None:
    dealt = [[np.array([0]), np.array([1])], [np.array([2]), np.array([3])]]
    assert balance([4.0, 2.0, 1.0, 3.0], dealt) == pytest.approx(5 / 7)
