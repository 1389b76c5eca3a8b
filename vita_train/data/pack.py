"""Samples to rows that hold as much as three budgets allow: language positions, tiles, filterbank frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_TRIES = 32
"""Rows looked at for a sample before a new one is opened."""


class Budgets(NamedTuple):
    """The most a row may hold."""

    tokens: int
    tiles: int
    frames: int


def pack(lengths: np.ndarray, budgets: Budgets, seed: int) -> list[np.ndarray]:
    """Fill rows by best fit, longest first, and return them in shuffled order.

    Args:
        lengths: (n, 3) tokens, tiles and frames of each sample.
        budgets: of a row.
        seed: of the order of rows.

    Returns:
        Places in ``lengths`` of each row's samples; every sample stands in exactly one row.

    Raises:
        ValueError: a sample is larger than a row; the place is the second argument.
    """
    if not len(lengths):
        return []
    over = np.flatnonzero((lengths > np.asarray(budgets)).any(axis=1))
    if len(over):
        raise ValueError("a sample is larger than a row", int(over[0]))
    order = np.argsort(-lengths[:, 0].astype(np.int64), kind="stable")
    rows: list[list[int]] = []
    tiles_left: list[int] = []
    frames_left: list[int] = []
    open_rows: list[list[int]] = [[] for _ in range(budgets.tokens + 1)]  # by tokens left
    occupied = 0  # bit t is set where open_rows[t] is not empty; finding the next one is one shift
    for place, (tokens, tiles, frames) in zip(order.tolist(), lengths[order].tolist(), strict=True):
        row, left = _find(open_rows, occupied, tokens, tiles, frames, tiles_left, frames_left)
        if row < 0:
            row, left = len(rows), budgets.tokens
            rows.append([])
            tiles_left.append(budgets.tiles)
            frames_left.append(budgets.frames)
        elif not open_rows[left]:
            occupied &= ~(1 << left)
        rows[row].append(place)
        tiles_left[row] -= tiles
        frames_left[row] -= frames
        left -= tokens
        if left:
            open_rows[left].append(row)
            occupied |= 1 << left
    mixed = np.random.default_rng(seed).permutation(len(rows))
    return [np.array(rows[row], dtype=np.int64) for row in mixed]


def _find(open_rows: list[list[int]], occupied: int, tokens: int, tiles: int, frames: int, tiles_left: list[int],
          frames_left: list[int]) -> tuple[int, int]:
    """Take out the row with the fewest tokens left that a sample fits in: (row, tokens left), or (-1, 0)."""
    later = occupied >> tokens
    left, tries = tokens, 0
    while later and tries < _TRIES:
        step = (later & -later).bit_length() - 1
        left += step
        for place in range(len(open_rows[left]) - 1, -1, -1):
            row = open_rows[left][place]
            if tiles <= tiles_left[row] and frames <= frames_left[row]:
                return open_rows[left].pop(place), left
            tries += 1
            if tries >= _TRIES:
                break
        later >>= step + 1
        left += 1
    return -1, 0


def fill(rows: list[np.ndarray], lengths: np.ndarray, budgets: Budgets) -> float:
    """Return the share of the rows' language positions that samples take."""
    return float(sum(lengths[row, 0].sum() for row in rows) / (len(rows) * budgets.tokens)) if rows else 0.0
