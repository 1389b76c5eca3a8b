"""Lessons before a stage's own data: orders of packed rows that follow one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vita_train.data.order import PackedOrder, Ref
from vita_train.data.sample import Sample
from vita_train.manifest import digest_of


class CurriculumOrder:
    """Global batches of each lesson for its number of steps, then of the last order without end.

    As with a single order, which samples a batch holds follows from the data, the seed and the step alone.

    Args:
        lessons: number of steps and order, in turn. Every order knows the indexes of all.
        last: what follows the lessons.
    """

    def __init__(self, lessons: Sequence[tuple[int, PackedOrder]], last: PackedOrder) -> None:
        self._lessons = list(lessons)
        self._last = last
        self.digest = digest_of([*([steps, order.digest] for steps, order in lessons), last.digest])
        """The same digest means the same batches."""

    def rows(self, step: int) -> list[list[Ref]]:
        """Return the rows of a global batch."""
        _, order, own = self._at(step)
        return order.rows(own)

    def load(self, row: list[Ref]) -> list[Sample]:
        """Fetch the samples of a row."""
        return self._last.load(row)

    def ids(self, step: int) -> list[str]:
        """Return the ids of a global batch's samples."""
        _, order, own = self._at(step)
        return order.ids(own)

    def state(self, step: int) -> dict[str, Any]:
        """Return where ``step`` begins, for :meth:`seek` after a restart."""
        number, order, own = self._at(step)
        return {"digest": self.digest, "lesson": number, "order": order.state(own)}

    def seek(self, state: Mapping[str, Any]) -> None:
        """Take over what another process knew; a state of other data or settings is of no use and ignored."""
        if state.get("digest") == self.digest:
            orders = [*(order for _, order in self._lessons), self._last]
            orders[int(state["lesson"])].seek(state["order"])

    def _at(self, step: int) -> tuple[int, PackedOrder, int]:
        """Return the lesson's number, its order, and the step within it."""
        for number, (steps, order) in enumerate(self._lessons):
            if step < steps:
                return number, order, step
            step -= steps
        return len(self._lessons), self._last, step
