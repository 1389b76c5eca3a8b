"""How full the rows of each stage are, and how evenly its ranks share the work of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vita_train.data.index.corpus import Corpus
from vita_train.data.sampling.build import packed_order
from vita_train.data.sampling.deal import balance, deal
from vita_train.data.sampling.order import PackedOrder
from vita_train.planning.parameters import meta_modules
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import modules_read
from vita_train.training.flops import row_costs

#: Global batches that are looked at.
_STEPS = 8


@dataclass(frozen=True)
class RowUse:
    """The rows of one stage."""

    stage: str
    fill: float
    """Share of the rows' tokens that samples take."""
    balance: float
    """Mean cost of the ranks over that of the slowest, see ``sampling.deal.balance``."""
    ranks: int
    seq_len: int


def row_use(recipe: Recipe, corpus: Corpus) -> list[RowUse]:
    """Return what the first global batches of each stage that packs rows come to, on the recipe's
    ranks.

    Raises:
        DataError: a sample is larger than a row of a stage.
    """
    return [
        _of_stage(recipe, stage, corpus)
        for stage, spec in recipe.stages.items()
        if OBJECTIVES[spec.objective].packs
    ]


def _of_stage(recipe: Recipe, stage: str, corpus: Corpus) -> RowUse:
    spec, ranks = recipe.stages[stage], recipe.launch.ranks
    modules = meta_modules(recipe.model, modules_read(recipe, stage))
    costs = row_costs(
        recipe.model, modules, [name for name in modules if name not in spec.trainable]
    )
    whole = spec.model_copy(update={"curriculum": []})
    order = packed_order(corpus.for_stage(spec), whole, seed=recipe.seed, costs=costs)
    assert isinstance(order, PackedOrder), "preparation refuses stages without data"
    tokens, shares = 0, []
    for step in range(_STEPS):
        tokens += sum(
            int(order.indexes[ref.dataset].tokens[ref.row])
            for row in order.rows(step)
            for ref in row
        )
        of_rows = order.costs(step)
        shares.append(balance(of_rows, deal(of_rows, ranks, spec.batch.grad_accum)))
    room = _STEPS * spec.batch.global_batch_size * spec.batch.seq_len
    return RowUse(stage, tokens / room, float(np.mean(shares)), ranks, spec.batch.seq_len)
