"""Rows of a step to ranks and micro-batches, so that ranks which wait for each other have as much
to do.

Ranks meet at every micro-batch where weights are sharded, and at the end of the step everywhere.
Rows of like cost therefore stand in the same micro-batch, and what is left of their differences is
evened out over the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Costs(NamedTuple):
    """What a row's parts take to compute, in one unit of any size."""

    token: float = 1.0
    """Of a position of the language model."""
    tile: float = 0.0
    frame: float = 0.0
    """Of a filterbank frame."""
    pair: float = 0.0
    """Of two positions of one document, for attention; a document of n tokens has n * n."""

    def of(self, lengths: np.ndarray) -> np.ndarray:
        """Return the cost of each sample (n,) from its tokens, tiles and frames (n, 3)."""
        table = lengths.astype(np.float64)
        return table @ np.array(self[:3]) + self.pair * table[:, 0] ** 2


EVEN = Costs()
"""Every position as much, and nothing else."""


def deal(costs: Sequence[float] | np.ndarray, ranks: int, parts: int) -> list[list[np.ndarray]]:
    """Deal rows to ``parts`` micro-batches of ``ranks`` ranks.

    With several of both, rows are sorted by cost and cut into micro-batches; within one they go to
    the ranks forth and back, and each micro-batch begins with the rank that has least so far.
    Otherwise there is nothing to choose but which rank has which rows, and they are dealt in turn.

    Args:
        costs: (n,) of each row.
        ranks: how many there are.
        parts: micro-batches of each rank; n is at least ``ranks * parts``.

    Returns:
        By micro-batch and rank the places of its rows; each row stands in exactly one.
    """
    count = len(costs)
    if ranks == 1 or parts == 1:
        by_rank = [np.arange(rank, count, ranks) for rank in range(ranks)]
        cut = [_cut(rows, parts) for rows in by_rank]
        return [[cut[rank][part] for rank in range(ranks)] for part in range(parts)]
    table = np.asarray(costs, dtype=np.float64)
    dealt, so_far = [], np.zeros(ranks)
    for block in _cut(np.argsort(-table, kind="stable"), parts):
        laps, turn = np.divmod(np.arange(len(block)), ranks)
        seats = np.where(laps % 2 == 0, turn, ranks - 1 - turn)
        order = np.argsort(so_far, kind="stable")
        shares = [block[seats == seat] for seat in np.argsort(order, kind="stable")]
        so_far += [table[share].sum() for share in shares]
        dealt.append(shares)
    return dealt


def balance(costs: Sequence[float] | np.ndarray, dealt: list[list[np.ndarray]]) -> float:
    """Return the mean of the ranks' costs over that of the slowest, where they meet at every
    micro-batch."""
    table = np.asarray(costs, dtype=np.float64)
    sums = np.array([[table[rows].sum() for rows in part] for part in dealt])
    slowest = sums.max(axis=1).sum()
    return float(sums.mean(axis=1).sum() / slowest) if slowest else 1.0


def _cut(rows: np.ndarray, parts: int) -> list[np.ndarray]:
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    return [rows[begin:end] for begin, end in pairwise(bounds)]
