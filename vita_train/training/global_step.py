"""What all ranks know of a step: agreed on before it, and its losses summed after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita_train.errors import DataError
from vita_train.training.batches import LoadedStep
from vita_train.training.objectives.base import LossOutput, Objective
from vita_train.training.observability.samples import id_sum
from vita_train.training.parallel.distributed import sum_over_ranks


@dataclass(frozen=True)
class GlobalStep:
    """What all ranks know of a step."""

    weight: float
    stop: bool
    id_sum: int
    """Of all its samples, those that could not be read among them."""
    samples: int
    """That are trained on."""
    tokens: int
    unreadable: int
    """Samples of all ranks that were passed over."""
    modalities: list[frozenset[str]]
    """Per micro-batch, over all ranks."""
    ids: list[str]
    """This rank's samples."""


def agree(objective: Objective, loaded: LoadedStep, *, stop: bool) -> GlobalStep:
    """Sum what all ranks must know of a step in one exchange.

    Args:
        objective: says what a micro-batch weighs.
        loaded: this rank's part of the step.
        stop: this rank was asked to stop; one is enough for all to do so after this step.

    Raises:
        DataError: nothing in the whole step is supervised.
    """
    parts = loaded.parts
    ids = loaded.sample_ids
    # All are added up as float64, in which whole numbers are exact to 2**53
    mine = [
        sum(objective.weight(part) for part in parts),
        float(stop),
        float(id_sum([*ids, *(sample.id for sample in loaded.unreadable)])),
        float(len(ids)),
        sum(objective.tokens(part) for part in parts),
        float(len(loaded.unreadable)),
    ]
    kinds = ("image", "audio")
    # Every rank has as many micro-batches, so the vectors are of one length
    mine += [float(kind in part.modalities) for part in parts for kind in kinds]
    total = sum_over_ranks(mine)
    if total[0] <= 0:
        raise DataError(
            "no position of this global batch is supervised",
            code="VT-DATA-039",
            where=f"samples {', '.join(ids[:8])}",
            remedy="check the labels of these records",
        )
    # Behind the six sums above, two flags a micro-batch
    flags = total[6:]
    modalities = [
        frozenset(kind for kind, flag in zip(kinds, flags[2 * i : 2 * i + 2], strict=True) if flag)
        for i in range(len(parts))
    ]
    return GlobalStep(
        total[0],
        bool(total[1]),
        int(total[2]),
        int(total[3]),
        int(total[4]),
        int(total[5]),
        modalities,
        ids,
    )


class MetricSums:
    """Losses and metrics since the last log line. Every batch must give the same metric names."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Any, Any]] = {}
        self.ids: Sequence[str] = ()
        self.factor = 0.0

    def add(self, output: LossOutput, phase: str) -> None:
        """Add one micro-batch; only the phase ``main`` gives the loss."""
        name = "loss" if phase == "main" else f"{phase}.loss"
        self._add({name: (output.loss_sum, output.count), **output.metrics})

    def merge(self, other: MetricSums) -> None:
        """Add what another one holds."""
        self._add(other._sums)

    def _add(self, parts: Mapping[str, tuple[Any, Any]]) -> None:
        for key, (total, count) in parts.items():
            before = self._sums.get(key, (0.0, 0.0))
            self._sums[key] = (before[0] + total, before[1] + count)

    def means(self) -> dict[str, float]:
        """Return the means over all ranks, of what was counted at all, and start anew."""
        # Sorted: ranks add up by position, and may have met the names in another order
        names = sorted(self._sums)
        flat = sum_over_ranks([float(value) for name in names for value in self._sums[name]])
        self._sums.clear()
        return {
            name: flat[2 * i] / flat[2 * i + 1] for i, name in enumerate(names) if flat[2 * i + 1]
        }
