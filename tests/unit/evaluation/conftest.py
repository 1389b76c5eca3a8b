"""One small corpus and model for all tests of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import nn

from tests.helpers.evaluation_world import small_corpus, small_model, small_recipe
from vita_train.data.index.corpus import Corpus
from vita_train.recipe.schema import Recipe


@dataclass
class World:
    recipe: Recipe
    corpus: Corpus
    modules: nn.ModuleDict


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    recipe = small_recipe()
    corpus = small_corpus(tmp_path_factory.mktemp("world"), recipe)
    return World(recipe, corpus, small_model(recipe, corpus))
