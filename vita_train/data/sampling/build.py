"""The order of a stage's global batches, from its recipe and the prepared corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.vocabulary import TRAIN
from vita_train.data.sampling.curriculum import CurriculumOrder
from vita_train.data.sampling.deal import EVEN, Costs
from vita_train.data.sampling.mix import key_of
from vita_train.data.sampling.order import PackedOrder, SampleOrder
from vita_train.data.sampling.pack import Budgets
from vita_train.recipe.stage import StageSpec


def packed_order(
    corpus: Corpus, spec: StageSpec, *, seed: int, split: str = TRAIN, costs: Costs = EVEN
) -> PackedOrder | CurriculumOrder | None:
    """Return the order of packed rows of a stage; none if no dataset of the stage has the split.

    In other splits than train every dataset is taken with weight 1, and there is no curriculum.

    Args:
        costs: what the parts of a row take to compute, for dealing rows to ranks.

    Raises:
        DataError: a dataset has no train split.
        RecipeError: a dataset is empty or a weight is not above 0.
    """
    weights = _weights(corpus, spec, split)
    if not weights:
        return None
    batch = spec.batch
    budgets = Budgets(batch.seq_len, batch.max_tiles, batch.max_audio_frames)
    phases = spec.curriculum if split == TRAIN else []
    indexes = {name: corpus.index(name, split) for name in (spec.datasets if phases else weights)}

    def order_of(shares: Mapping[str, float], key: int) -> PackedOrder:
        return PackedOrder(
            indexes,
            shares,
            batch.global_batch_size,
            budgets,
            key,
            packing=batch.packing,
            group=batch.group_by_modality_length,
            costs=costs,
        )

    order = order_of(weights, seed)
    if not phases:
        return order
    return CurriculumOrder(
        [
            (
                phase.most_steps,
                # The key's word is part of every curriculum's order: another would reshuffle all.
                order_of(_shares(corpus, phase.data), key_of(seed, "lesson", number)),
            )
            for number, phase in enumerate(phases)
        ],
        order,
    )


def sample_order(
    corpus: Corpus,
    spec: StageSpec,
    *,
    seed: int,
    split: str = TRAIN,
    bucket: Literal["none", "tokens", "frames"] = "none",
) -> SampleOrder | None:
    """Return the order of single samples of a stage; none if no dataset of the stage has the split.

    Args:
        bucket: length by which samples of neighbouring batches are sorted, so that little is
            padded.

    Raises:
        DataError: a dataset has no train split.
        RecipeError: a dataset is empty or a weight is not above 0.
    """
    weights = _weights(corpus, spec, split)
    if not weights:
        return None
    return SampleOrder(
        {name: corpus.index(name, split) for name in weights},
        weights,
        spec.batch.global_batch_size,
        seed,
        bucket=bucket,
    )


def _weights(corpus: Corpus, spec: StageSpec, split: str) -> dict[str, float]:
    if split == TRAIN:
        return _shares(corpus, spec.data)
    return {
        name: 1.0
        for name in spec.data
        if split in corpus.datasets.get(name, []) and len(corpus.index(name, split))
    }


def _shares(corpus: Corpus, weights: Mapping[str, float]) -> dict[str, float]:
    """Return how often each dataset is taken: the stage's weight times the registry's ratio."""
    return {name: weight * corpus.ratios.get(name, 1.0) for name, weight in weights.items()}
