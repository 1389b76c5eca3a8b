"""Batches of one modality and of like lengths, without packing: the public trainer's
``group_by_modality_length``."""

from __future__ import annotations

import numpy as np

from vita_train.data.sampling.pack import Budgets, one_each


def grouped(
    lengths: np.ndarray, budgets: Budgets, seed: int, *, batch: int, filled: int
) -> list[np.ndarray]:
    """Return rows of one sample each, so that a batch holds samples with images or without, the
    longest first.

    As in the public trainer each of the two classes is shuffled and cut into batches, and the
    batches are shuffled; what is left over of both comes last. Unlike there, lengths are what the
    model sees, tiles and audio frames included.

    Args:
        lengths: (N, 3) tokens, tiles and audio frames of each sample.
        budgets: of a row.
        seed: of every draw.
        batch: rows of a global batch.
        filled: rows that the last global batch before these already has; the first of these
            complete it.

    Raises:
        TooLargeError: a sample is larger than a row.
    """
    one_each(lengths, budgets, seed)
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(lengths))
    head = min(-filled % batch, len(shuffled))
    first, rest = shuffled[:head], shuffled[head:]
    classes = (rest[lengths[rest, 1] > 0], rest[lengths[rest, 1] == 0])
    whole = [
        part[start : start + batch]
        for part in classes
        for start in range(0, len(part) - batch + 1, batch)
    ]
    left = np.concatenate([part[len(part) // batch * batch :] for part in classes])
    batches = [whole[number] for number in draw.permutation(len(whole))]
    ordered = [first, *batches, left]
    return [
        np.array([index])
        for part in ordered
        for index in part[np.argsort(-lengths[part, 0], kind="stable")]
    ]
