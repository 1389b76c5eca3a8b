"""Phases before a stage's own data: orders of packed rows that follow one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vita_train.data.index.sample import Sample
from vita_train.data.sampling.order import PackedOrder, Ref
from vita_train.storage.digest import digest_of


class CurriculumOrder:
    """Global batches of each phase for its number of steps, then of the last order without end.

    As with a single order, which samples a batch holds follows from the data, the seed, the step
    and the ends of the phases alone. A phase that trains until something is reached ends earlier
    than its most steps: ``set_ends``.

    Args:
        phases: most steps and order, in turn. Every order knows the indexes of all.
        last: what follows the phases.
    """

    def __init__(self, phases: Sequence[tuple[int, PackedOrder]], last: PackedOrder) -> None:
        self._orders = [*(order for _, order in phases), last]
        self._ends = [
            sum(steps for steps, _ in phases[: number + 1]) for number in range(len(phases))
        ]
        self.digest = digest_of([*([steps, order.digest] for steps, order in phases), last.digest])
        """The same digest and the same ends mean the same batches."""

    @property
    def ends(self) -> list[int]:
        """The step at which each phase ends."""
        return list(self._ends)

    def set_ends(self, ends: Sequence[int]) -> None:
        """Say at which step each phase ends. Steps before an end that is taken forward keep their
        batches."""
        self._ends = list(ends)

    def rows(self, step: int) -> list[list[Ref]]:
        """Return the rows of a global batch."""
        number, own = self._at(step)
        return self._orders[number].rows(own)

    def costs(self, step: int) -> np.ndarray:
        """Return what each row of a global batch takes to compute, (rows,)."""
        number, own = self._at(step)
        return self._orders[number].costs(own)

    def load(self, row: list[Ref]) -> list[Sample]:
        """Fetch the samples of a row."""
        return self._orders[-1].load(row)

    def ids(self, step: int) -> list[str]:
        """Return the ids of a global batch's samples."""
        number, own = self._at(step)
        return self._orders[number].ids(own)

    def state(self, step: int) -> dict[str, Any]:
        """Return where ``step`` begins, for :meth:`seek` after a restart."""
        number, own = self._at(step)
        return {"digest": self.digest, "phase": number, "order": self._orders[number].state(own)}

    def seek(self, state: Mapping[str, Any]) -> None:
        """Take over what another process knew; a state of other data or settings is of no use and
        ignored."""
        if state.get("digest") == self.digest:
            self._orders[int(state["phase"])].seek(state["order"])

    def _at(self, step: int) -> tuple[int, int]:
        """Return the number of the phase and the step within it."""
        start = 0
        for number, end in enumerate(self._ends):
            if step < end:
                return number, step - start
            start = end
        return len(self._ends), step - start
