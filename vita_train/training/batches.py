"""From an order of global batches to this rank's micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from vita_train.data.loading.batch import Collate, MicroBatch
from vita_train.data.loading.unreadable import Unreadable, collate_readable
from vita_train.data.sampling.deal import deal
from vita_train.errors import RecipeError, VitaError
from vita_train.training.parallel.distributed import ALONE, World

AHEAD = 4
"""Steps, beside the one it makes, whose media a worker brings to the node where they lie in
shards."""


class BatchOrder(Protocol):
    """Global batches as a pure function of the step (see ``vita_train.data.sampling.build``)."""

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of the first epoch, about."""
        ...

    def rows(self, step: int) -> Sequence[Any]:
        """Return the rows of a global batch: references, nothing is read."""
        ...

    def costs(self, step: int) -> Sequence[float] | np.ndarray:
        """Return what each row of a global batch takes to compute, in any unit."""
        ...

    def load(self, row: Any) -> Any:
        """Return what ``Objective.collate`` takes for a row: a Sample, or the list of Samples
        packed in it."""
        ...

    def ids(self, step: int) -> list[str]:
        """Return the ids of all samples of a global batch."""
        ...

    def state(self, step: int) -> dict[str, Any]:
        """Return what finds ``step`` at once after a restart, for `seek`; empty where nothing has
        to be looked for."""
        ...

    def seek(self, state: Mapping[str, Any]) -> None:
        """Take over what another process knew; a state of no use is ignored."""
        ...

    @property
    def ends(self) -> Sequence[int]:
        """The step at which each curriculum phase ends; empty without phases."""
        ...

    def set_ends(self, ends: Sequence[int]) -> None:
        """Say at which step each curriculum phase ends."""
        ...


class LoadedPart(NamedTuple):
    """What a worker hands over: one micro-batch, so that shared memory holds few at a time."""

    batch: MicroBatch
    unreadable: list[Unreadable]


class LoadedStep(NamedTuple):
    """What the loader hands over for a step."""

    parts: list[MicroBatch]
    """This rank's micro-batches, on the CPU."""
    unreadable: list[Unreadable]
    """Its samples that are in none of them."""

    @property
    def sample_ids(self) -> list[str]:
        """Ids of the samples in its micro-batches."""
        return [name for part in self.parts for name in part.sample_ids]


class BatchLoader:
    """This rank's micro-batches of an order.

    Workers are started once, at the first step, and stay: a plan that changes while a stage trains
    starts no processes beside a checkpoint that is being stored. Where training runs on an
    accelerator, batches arrive in page-locked memory, so that they are copied while it computes.

    Args:
        collate: makes a micro-batch of samples; workers get a copy.
        order: the global batches.
        grad_accum: micro-batches of a step.
        world: this rank among all.
        seed: of the recipe.
        workers: processes that read; 0 reads in this one.
        ahead: steps for which each pulls media out of shards before it makes their batches.
        skip: pass over samples that cannot be read, and name them; without it they end the stage.
    """

    def __init__(
        self,
        collate: Collate,
        order: BatchOrder,
        *,
        grad_accum: int = 1,
        world: World = ALONE,
        seed: int = 0,
        workers: int = 0,
        ahead: int = 0,
        skip: bool = False,
    ) -> None:
        self._order = order
        self._visits = _Visits(grad_accum, ahead=ahead * grad_accum, stride=max(1, workers))
        self._loader = DataLoader(
            _Parts(collate, order, grad_accum, world, seed, skip),
            # The dataset makes whole micro-batches; the loader hands on what it returns
            batch_size=None,
            sampler=self._visits,
            num_workers=workers,
            # torch refuses a number where there are no workers
            prefetch_factor=2 if workers else None,
            persistent_workers=workers > 0,
            pin_memory=world.device.type != "cpu",
        )

    def steps(self, start: int, stop: int) -> Iterator[LoadedStep]:
        """Yield this rank's micro-batches of each step from ``start`` to ``stop``.

        Rows of like cost stand in the same micro-batch of all ranks, see ``sampling.deal``. Neither
        ranks nor workers change which samples a step holds. Asked again, it gives up what it had
        begun.

        Raises:
            RecipeError: a global batch has fewer rows than micro-batches over all ranks.
            DataError: a sample cannot be read; the same message with and without workers.
        """
        # Set before the loader is iterated, which asks its sampler anew each time
        self._visits.steps = range(start, stop)
        self._visits.ends = tuple(self._order.ends)
        step = LoadedStep([], [])
        for loaded in self._loader:
            if isinstance(loaded, VitaError):
                raise loaded
            step.parts.append(loaded.batch)
            step.unreadable.extend(loaded.unreadable)
            if len(step.parts) == self._visits.parts:
                yield step
                step = LoadedStep([], [])


class _Visit(NamedTuple):
    """A micro-batch to make, by its number: those of each step count on from those of the step
    before. Workers have a copy of the order and learn here how it changed."""

    number: int
    ends: tuple[int, ...]
    ahead: range
    """Micro-batches that the same worker makes next, to pull media for."""


@dataclass
class _Visits:
    """The micro-batches to come, as the loader asks for them."""

    parts: int
    """Of a step."""
    steps: range = range(0)
    ends: tuple[int, ...] = ()
    ahead: int = 0
    stride: int = 1
    """Workers, who take turns."""

    def __iter__(self) -> Iterator[_Visit]:
        stop = self.steps.stop * self.parts
        for number in range(self.steps.start * self.parts, stop):
            last = min(stop, number + self.ahead * self.stride + 1)
            yield _Visit(number, self.ends, range(number + self.stride, last, self.stride))


class _Parts(Dataset["LoadedPart | VitaError"]):
    """A micro-batch, or the error that reading it gave: torch would pass it on as mere text."""

    def __init__(
        self,
        collate: Collate,
        order: BatchOrder,
        grad_accum: int,
        world: World,
        seed: int,
        skip: bool,
    ) -> None:
        self._collate = collate
        self._order = order
        self._grad_accum = grad_accum
        self._rank, self._size = world.rank, world.size
        self._seed = seed
        self._skip = skip
        self._opened: dict[tuple[int, tuple[int, ...]], list[Any]] = {}

    def __getitem__(self, visit: _Visit) -> LoadedPart | VitaError:
        self._order.set_ends(visit.ends)
        try:
            # Phases that ended elsewhere meanwhile make other rows of the same number: the ends are
            # in the key
            mine = self._opened.pop((visit.number, visit.ends), None) or self._open(visit.number)
            # Before this one is read, so that transfers run while its media are decoded
            self._pull(visit)
            return self._load(visit.number, mine)
        except VitaError as error:
            return error

    def _pull(self, visit: _Visit) -> None:
        """Begin to bring the media of later micro-batches to this node."""
        ahead = {(number, visit.ends) for number in visit.ahead}
        # Those that were given up are forgotten.
        self._opened = {key: rows for key, rows in self._opened.items() if key in ahead}
        # Sorted: the media of the next micro-batch come first
        for number, ends in sorted(ahead - self._opened.keys()):
            with suppress(VitaError):  # the micro-batch itself will meet it
                rows = self._open(number)
                for row in rows:
                    for sample in row if isinstance(row, list) else [row]:
                        sample.pull()
                self._opened[number, ends] = rows

    def _open(self, number: int) -> list[Any]:
        """Return this rank's samples of a micro-batch, row by row, their media unread."""
        step, part = divmod(number, self._grad_accum)
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
        # Every rank deals the whole batch and takes its part: no message is needed to agree
        dealt = deal(self._order.costs(step), self._size, self._grad_accum)
        return [self._order.load(rows[place]) for place in dealt[part][self._rank].tolist()]

    def _load(self, number: int, mine: list[Any]) -> LoadedPart:
        step = number // self._grad_accum
        # By step alone: neither ranks nor grad_accum may change what is drawn for a sample
        seed = int(np.random.SeedSequence([self._seed, step]).generate_state(1)[0])
        batch, unreadable = collate_readable(self._collate, mine, seed=seed, skip=self._skip)
        return LoadedPart(batch, unreadable)
