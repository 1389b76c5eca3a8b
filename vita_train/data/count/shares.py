"""What share of an epoch's tokens each dataset of a stage has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vita_train.data.count.gather import SplitCounts
from vita_train.data.sources.splitting import TRAIN
from vita_train.recipe.schema import Recipe


@dataclass(frozen=True)
class DatasetShare:
    """One dataset of a stage's mixture."""

    dataset: str
    weight: float
    """How often each record is taken in an epoch: the stage's weight times the registry's ratio."""
    records: float
    """Records an epoch."""
    tokens: float
    """Tokens an epoch."""
    share_of_records: float
    share_of_tokens: float
    share_of_supervised: float
    """Of the tokens that the loss is taken of."""


@dataclass(frozen=True)
class StageShares:
    """The mixture of a stage, or of a phase of its curriculum."""

    stage: str
    datasets: tuple[DatasetShare, ...]
    missing: tuple[str, ...]
    """Datasets of the recipe that were not counted; the shares are of the others."""


def stage_shares(recipe: Recipe, splits: Sequence[SplitCounts]) -> list[StageShares]:
    """Return the mixture of every stage by the lengths of the train splits; where one was counted
    before and after preparation, as it was prepared."""
    known: dict[str, SplitCounts] = {}
    for counts in splits:
        is_better = counts.state == "prepared" or counts.dataset not in known
        if counts.split == TRAIN and counts.measured and is_better:
            known[counts.dataset] = counts
    mixtures: list[tuple[str, Mapping[str, float]]] = []
    for name, spec in recipe.stages.items():
        for number, phase in enumerate(spec.curriculum, 1):
            mixtures.append((f"{name}, phase {number}", phase.data))
        mixtures.append((name, spec.data))
    return [_shares(name, weights, known) for name, weights in mixtures]


def _shares(
    stage: str, weights: Mapping[str, float], known: Mapping[str, SplitCounts]
) -> StageShares:
    taken = {name: weight * known[name].ratio for name, weight in weights.items() if name in known}

    def total(field: str) -> float:
        return sum(weight * getattr(known[name], field) for name, weight in taken.items()) or 1.0

    records, tokens, supervised = (total(name) for name in ("records", "tokens", "supervised"))
    return StageShares(
        stage,
        tuple(
            DatasetShare(
                name,
                weight,
                weight * known[name].records,
                weight * known[name].tokens,
                weight * known[name].records / records,
                weight * known[name].tokens / tokens,
                weight * known[name].supervised / supervised,
            )
            for name, weight in sorted(taken.items())
        ),
        tuple(sorted(set(weights) - set(known))),
    )
