"""Ranks, micro-batches and workers never change what a step holds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.helpers.toy import ToyObjective, ToyOrder, toy_context, toy_modules, toy_recipe
from vita_train.errors import DataError, RecipeError
from vita_train.training.batches import micro_batches
from vita_train.training.parallel.distributed import World


def ids(size: int, accumulate: int, workers: int = 0, start: int = 0) -> list[list[str]]:
    """Ids of steps ``start`` to 4 over all ranks, sorted within a step."""
    objective = ToyObjective(toy_context(toy_recipe(), "1.2"), toy_modules())
    steps: list[list[str]] = [[] for _ in range(start, 4)]
    for rank in range(size):
        world = World(rank, size, rank, torch.device("cpu"))
        batches = micro_batches(
            objective,
            ToyOrder(),
            start=start,
            stop=4,
            grad_accum=accumulate,
            world=world,
            seed=0,
            workers=workers,
        )
        for step, parts in enumerate(batches):
            assert len(parts) == accumulate
            steps[step] += [name for part in parts for name in part.sample_ids]
    return [sorted(step) for step in steps]


@pytest.mark.parametrize(
    ("size", "accumulate", "workers"), [(1, 4, 0), (2, 1, 0), (2, 2, 2), (3, 2, 0), (8, 1, 0)]
)
def test_same_global_batches(size: int, accumulate: int, workers: int) -> None:
    assert (
        ids(size, accumulate, workers)
        == ids(1, 1)
        == [sorted(ToyOrder().ids(step)) for step in range(4)]
    )


def test_starting_later_gives_the_later_batches() -> None:
    assert ids(2, 1, start=2) == ids(1, 1)[2:]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(RecipeError, match="8 rows cannot be split into 5 micro-batches on 2 ranks"):
        ids(2, 5)


class BrokenOrder(ToyOrder):
    """One sample of step 1 cannot be read."""

    def load(self, row: SimpleNamespace) -> SimpleNamespace:
        if row.id in self.ids(1):
            raise DataError("the image is cut off", where="a.jpg", remedy="fetch it again")
        return row


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_told_in_full(workers: int) -> None:
    objective = ToyObjective(toy_context(toy_recipe(), "1.2"), toy_modules())
    batches = micro_batches(
        objective,
        BrokenOrder(),
        start=0,
        stop=4,
        grad_accum=1,
        world=World(0, 1, 0, torch.device("cpu")),
        seed=0,
        workers=workers,
    )
    next(batches)
    with pytest.raises(DataError) as told:
        next(batches)
    assert str(told.value) == "a.jpg: the image is cut off (fetch it again)"
