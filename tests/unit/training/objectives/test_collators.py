"""What loader workers get of an objective: settings and no weights."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.evaluation_world import small_corpus, small_model, small_recipe
from vita_train.data.index.corpus import Corpus
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.training.objectives import objective_class
from vita_train.training.objectives.base import StageContext


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return small_recipe()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("corpus") / "world", recipe)


@pytest.fixture(scope="module")
def modules(recipe: Recipe, corpus: Corpus) -> nn.ModuleDict:
    return small_model(recipe, corpus)


class Weightless(pickle.Pickler):
    """Pickles what holds neither modules nor tensors."""

    def reducer_override(self, value: Any) -> Any:
        assert not isinstance(value, nn.Module | torch.Tensor), type(value)
        return NotImplemented


#: For every objective of the package a stage of the small recipe whose data it reads, and options.
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "caption_words": ("1.1", {"min_count": 1}),
    "next_token": ("1.2", {}),
    "ctc": ("2.1a", {}),
    "codec": ("3.1", {}),
    "speech_tokens": ("3.2", {}),
}


OUR_OWN = "vita_train."


def test_every_objective_is_looked_at() -> None:
    known = {name: OBJECTIVES[name].implementation for name in OBJECTIVES}
    assert set(STAGES) == {name for name, path in known.items() if path.startswith(OUR_OWN)}


@pytest.mark.parametrize("objective", STAGES)
def test_a_collator_holds_no_weights_and_makes_the_same_batches_in_a_worker(
    objective: str, recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict
) -> None:
    stage, options = STAGES[objective]
    spec = recipe.stages[stage].model_copy(update={"objective": objective, "options": options})
    context = StageContext(
        recipe, stage, spec, corpus, torch.device("cpu"), torch.float32, rank=0, world=1, seed=0
    )
    made = objective_class(objective)(context, modules)
    stream = io.BytesIO()
    Weightless(stream).dump(made.collate)
    in_worker = pickle.loads(stream.getvalue())
    order = made.order()
    samples = [order.load(row) for row in order.rows(0)]
    here, there = made.collate(samples, seed=3), in_worker(samples, seed=3)
    assert there.sample_ids == here.sample_ids
    for name, value in vars(here).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(there, name)), name
