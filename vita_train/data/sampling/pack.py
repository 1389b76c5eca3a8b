"""Samples to rows that hold as much as three budgets allow: tokens, tiles, filterbank frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Budgets(NamedTuple):
    """The most a row may hold."""

    tokens: int
    tiles: int
    frames: int


class TooLargeError(ValueError):
    """A sample that no row can hold, by its place in the table of lengths."""

    def __init__(self, index: int) -> None:
        super().__init__(f"sample {index} is larger than a row")
        self.index = index


def pack(lengths: np.ndarray, budgets: Budgets, seed: int) -> list[np.ndarray]:
    """Fill rows by best fit, largest first: samples with media, then text into what is left.

    Each round knows one number a sample: for samples with media the largest share of any budget it
    takes, for text its positions. So the row it fits best is found by one shift, without a search
    over three numbers.

    Args:
        lengths: (n, 3) tokens, tiles and frames of each sample.
        budgets: of a row.
        seed: of the order of rows.

    Returns:
        Places in ``lengths`` of each row's samples, rows in shuffled order; every sample stands in
        exactly one row.

    Raises:
        TooLargeError: a sample is larger than a row.
    """
    table, limits = _checked(lengths, budgets)
    media = (table[:, 1:] > 0).any(axis=1)
    rows: list[list[int]] = []
    left: list[list[int]] = []
    # Shares are counted in positions: rounded up for what is needed, down for what is left, so that
    # budgets hold.
    needed = (-(-table * limits[0] // limits)).max(axis=1)
    _best_fit(np.flatnonzero(media), needed, table, budgets, rows, left, shares=True)
    _best_fit(np.flatnonzero(~media), table[:, 0], table, budgets, rows, left, shares=False)
    mixed = np.random.default_rng(seed).permutation(len(rows))
    return [np.array(rows[row], dtype=np.int64) for row in mixed]


def one_each(lengths: np.ndarray, budgets: Budgets, seed: int) -> list[np.ndarray]:
    """Make each sample a row of its own, in their order; arguments and errors as of `pack`."""
    table, _ = _checked(lengths, budgets)
    return list(np.arange(len(table)).reshape(-1, 1))


def _checked(lengths: np.ndarray, budgets: Budgets) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and budgets as arrays, every sample within a row."""
    table = np.asarray(lengths, dtype=np.int64).reshape(-1, 3)
    limits = np.asarray(budgets, dtype=np.int64)
    over = np.flatnonzero((table > limits).any(axis=1))
    if len(over):
        raise TooLargeError(int(over[0]))
    return table, limits


def _best_fit(
    indices: np.ndarray,
    sizes: np.ndarray,
    table: np.ndarray,
    budgets: Budgets,
    rows: list[list[int]],
    left: list[list[int]],
    *,
    shares: bool,
) -> None:
    """Put the samples at ``indices`` into rows, opening new ones where none has room; changes
    ``rows`` and ``left``."""
    tokens, tiles, frames = budgets
    by_room: list[list[int]] = [[] for _ in range(tokens + 1)]
    occupied = 0  # bit r is set where by_room[r] is not empty

    def room_of(row: int) -> int:
        has = left[row]
        return (
            min(has[0], has[1] * tokens // tiles, has[2] * tokens // frames) if shares else has[0]
        )

    for row in range(len(rows)):
        by_room[room_of(row)].append(row)
    for room, there in enumerate(by_room):
        occupied |= (1 << room) if there else 0
    # Stable, so that samples of one size keep their order on every machine.
    order = indices[np.argsort(-sizes[indices], kind="stable")]
    for index, size, taken in zip(
        order.tolist(), sizes[order].tolist(), table[order].tolist(), strict=True
    ):
        # The lowest bit that is left is the smallest room that the sample fits into.
        fitting = occupied >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                occupied &= ~(1 << room)
        else:
            row = len(rows)
            rows.append([])
            left.append([tokens, tiles, frames])
        rows[row].append(index)
        left[row] = [has - more for has, more in zip(left[row], taken, strict=True)]
        room = room_of(row)
        by_room[room].append(row)
        occupied |= 1 << room


def fill(rows: list[np.ndarray], lengths: np.ndarray, budgets: Budgets) -> float:
    """Return the share of the rows' tokens that samples take."""
    return (
        float(sum(lengths[row, 0].sum() for row in rows) / (len(rows) * budgets.tokens))
        if rows
        else 0.0
    )
