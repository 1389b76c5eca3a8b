"""Samples whose files cannot be read while a stage trains: an end, or passed over and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vita_train.data.loading.batch import Collate, MicroBatch
from vita_train.errors import DataError


class Unreadable(NamedTuple):
    """A sample that was passed over."""

    id: str
    reason: str


def collate_readable(
    collate: Collate, rows: Sequence[Any], *, seed: int, skip: bool
) -> tuple[MicroBatch, list[Unreadable]]:
    """Return the micro-batch of what can be read of some rows, and what cannot.

    Which samples are at fault is asked only when the whole fails: each is collated by itself.

    Args:
        collate: of the objective.
        rows: samples, or lists of the samples packed in a row.
        seed: of the step.
        skip: pass over samples that cannot be read; without it they end the stage.

    Raises:
        DataError: a sample cannot be read and ``skip`` is not set, none can be read, or the fault
            is in no single sample.
    """
    try:
        return collate(rows, seed=seed), []
    except DataError:
        if not skip:
            raise
        unreadable = list(_unreadable(collate, rows, seed))
        kept = _without(rows, unreadable)
        if not unreadable or not kept:
            raise
    # Outside the try: a fault that is no single sample's must not be passed over
    return collate(kept, seed=seed), unreadable


def readable(collate: Collate, samples: Sequence[Any], *, seed: int) -> list[Any]:
    """Return the samples that can be read.

    Raises:
        DataError: none can.
    """
    unreadable = list(_unreadable(collate, samples, seed))
    if len(unreadable) == len(samples):
        collate(samples[:1], seed=seed)  # its error says why
    return _without(samples, unreadable)


def _unreadable(collate: Collate, rows: Sequence[Any], seed: int) -> Iterator[Unreadable]:
    for row in rows:
        for sample in row if isinstance(row, list) else [row]:
            try:
                collate([[sample]] if isinstance(row, list) else [sample], seed=seed)
            except DataError as error:
                yield Unreadable(sample.id, str(error))


def _without(rows: Sequence[Any], unreadable: Sequence[Unreadable]) -> list[Any]:
    """Return rows without the samples that cannot be read, and no row that is empty then."""
    lost = {sample.id for sample in unreadable}
    kept: list[Any] = []
    for row in rows:
        if isinstance(row, list):
            if left := [sample for sample in row if sample.id not in lost]:
                kept.append(left)
        elif row.id not in lost:
            kept.append(row)
    return kept
