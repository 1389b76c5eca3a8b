"""Rotary positions of a document."""

from __future__ import annotations

import numpy as np

from vita_train.recipe.special_ids import IMAGE_ID


def positions_of(ids: np.ndarray, stride: int = 1) -> np.ndarray:
    """Return the position of each id of a document: (tokens,) expanded ids -> (tokens,) int64, from
    0.

    With a stride k above 1, k visual tokens that follow each other share a position, and so do
    those left over at the end of a stretch (VITA-1.5, ``shared_v_pid_stride``: each advances the
    position by 1/k, r left over by 1/r, and the sum is rounded up). Every other token has its own.
    """
    visual = ids == IMAGE_ID
    if stride == 1 or not visual.any():
        return np.arange(len(ids))
    index = np.arange(len(ids))
    starts = visual & ~np.concatenate(([False], visual[:-1]))
    # For every id the place where the latest stretch began
    first = np.maximum.accumulate(np.where(starts, index, 0))
    # Each id that opens a position; counting them gives the positions
    opens = ~visual | ((index - first) % stride == 0)
    return np.cumsum(opens) - 1
