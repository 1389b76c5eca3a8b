"""Settings of codec and speech decoder: who computes as published, and what goes together."""

from __future__ import annotations

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import load_recipe

SEVERAL = ["model.codec.code_groups=2", "model.codec.code_residuals=2"]


def published(name: str) -> tuple[str, bool, bool, str]:
    recipe = load_recipe(name)
    decoder = recipe.model.speech_decoder
    return (
        recipe.model.codec.variant,
        decoder.text_norm,
        decoder.head_bias,
        recipe.data.video.short,
    )


def test_the_real_recipe_computes_as_published() -> None:
    assert published("vita-1.5-7b") == ("ticodec", False, True, "published")


@pytest.mark.parametrize("name", ["smoke", "stamps", "tiny"])
def test_the_small_recipes_compute_what_they_did(name: str) -> None:
    assert published(name) == ("revised", True, False, "spread")


def test_the_speech_decoder_writes_codes_of_one_codebook() -> None:
    with raises_code(RecipeError, "VT-RECIPE-027", "2 x 2", "code_groups"):
        check_recipe(load_recipe("smoke", SEVERAL))


def test_a_codec_alone_may_have_several_codebooks() -> None:
    recipe = load_recipe("smoke", SEVERAL)
    alone = recipe.model_copy(update={"stages": {"3.1": recipe.stages["3.1"]}})
    check_recipe(alone)
    assert alone.model.codec.num_codebooks == 4


def test_a_spectral_codec_has_no_published_variant() -> None:
    with raises_code(RecipeError, "VT-RECIPE-047", "waveform"):
        load_recipe("smoke", ["model.codec.variant=ticodec"])
