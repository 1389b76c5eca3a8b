"""A setting that is off is no reason to prepare or train again: digests of the shipped recipes are as they were."""

from __future__ import annotations

import pytest

from vita_train.recipe.corpus import corpus_settings
from vita_train.recipe.load import load_recipe
from vita_train.storage.digest import digest_of
from vita_train.training.inputs import Inputs, stage_digest

#: Of the settings of the corpus, and of all stages over corpora that are alike; first 16 digits.
GOLDEN = {
    "smoke": ("fd29547ab4b35026", "ce5ea083007e65ce"),
    "tiny": ("c49c3409f8a4ddda", "200343cf92316698"),
    "stamps": ("b8f46b44bfcbef14", "0f452ce1bd1c940a"),
    "vita-1.5-7b": ("a5d18ac063353ec8", "fb6374fa3d86baed"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_digests_of_shipped_recipes(name: str) -> None:
    recipe = load_recipe(name)
    corpus = digest_of(corpus_settings(recipe))
    stages = digest_of({stage: stage_digest(recipe, stage, Inputs({}, {"any": corpus}), spec.trainable)
                        for stage, spec in recipe.stages.items()})
    assert (corpus[:16], stages[:16]) == GOLDEN[name]
