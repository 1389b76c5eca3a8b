"""From an order of global batches to this rank's micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from vita_train.errors import RecipeError, VitaError
from vita_train.training.objectives.base import Objective
from vita_train.training.parallel.distributed import World


class BatchOrder(Protocol):
    """Global batches as a pure function of the step (see ``vita_train.data.sampling.build``)."""

    steps_per_epoch: int

    def rows(self, step: int) -> Sequence[Any]:
        """Return the rows of a global batch: references, nothing is read."""
        ...

    def load(self, row: Any) -> Any:
        """Return what ``Objective.collate`` takes for a row: a Sample, or the list of Samples
        packed in it."""
        ...

    def ids(self, step: int) -> list[str]:
        """Return the ids of all samples of a global batch."""
        ...

    # Orders that must look at what came before to find a step also have state(step) and
    # seek(state).


def micro_batches(
    objective: Objective,
    order: BatchOrder,
    *,
    start: int,
    stop: int,
    grad_accum: int,
    world: World,
    seed: int,
    workers: int,
) -> Iterator[list[Any]]:
    """Yield, for each step from ``start`` to ``stop``, this rank's micro-batches on the CPU.

    Rank r takes rows r, r + world, ... of the global batch and splits them evenly. Neither ranks
    nor workers change which samples a step holds.

    Raises:
        RecipeError: a global batch has fewer rows than micro-batches over all ranks.
        DataError: a sample cannot be read; the same message with and without workers.
    """
    steps = _Steps(objective, order, grad_accum, world, seed)
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
    )
    for parts in loader:
        if isinstance(parts, VitaError):
            raise parts
        yield parts


class _Steps(Dataset["list[Any] | VitaError"]):
    """The micro-batches of a step, or the error that reading them gave: torch would pass it on as
    mere text."""

    def __init__(
        self, objective: Objective, order: BatchOrder, grad_accum: int, world: World, seed: int
    ) -> None:
        self._collate = objective.collate
        self._order = order
        self._grad_accum = grad_accum
        self._rank, self._size = world.rank, world.size
        self._seed = seed

    def __getitem__(self, step: int) -> list[Any] | VitaError:
        try:
            return self._parts(step)
        except VitaError as error:
            return error

    def _parts(self, step: int) -> list[Any]:
        rows = self._order.rows(step)
        if len(rows) < self._size * self._grad_accum:
            raise RecipeError(
                f"a global batch of {len(rows)} rows cannot be split into {self._grad_accum} "
                f"micro-batches on {self._size} ranks",
                code="VT-RECIPE-058",
                where="batch.global_batch_size",
                remedy="raise batch.global_batch_size or lower batch.grad_accum or the number of "
                "ranks",
            )
        mine = rows[self._rank :: self._size]
        seed = int(np.random.SeedSequence([self._seed, step]).generate_state(1)[0])
        bounds = [len(mine) * part // self._grad_accum for part in range(self._grad_accum + 1)]
        return [
            self._collate([self._order.load(row) for row in mine[begin:end]], seed=seed)
            for begin, end in pairwise(bounds)
        ]
