"""Towers and projectors as a recipe names them, and the tokens that follow."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from tests.helpers.errors import raises_code
from tests.helpers.no_source import NO_SOURCE
from vita_train.errors import RecipeError
from vita_train.planning.tokens import image_cost, video_cost
from vita_train.recipe.check import check_recipe
from vita_train.recipe.corpus import corpus_settings
from vita_train.recipe.json_schema import recipe_json_schema
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.towers.internvit import InternVitSpec


@pytest.mark.parametrize(
    ("vision", "tile", "tokens", "width"),
    [
        ({}, 448, 256, 4096),
        ({"kind": "siglip"}, 384, 729, 1152),
        ({"kind": "siglip", "scales": [384, 768, 1152]}, 1152, 729, 3456),
        ({"kind": "clip"}, 336, 576, 1024),
        ({"kind": "clip", "image_size": 224}, 224, 256, 1024),
        ({"kind": "eva_clip"}, 336, 576, 1024),
    ],
)
def test_towers_give_what_vita_s_table_says(
    vision: dict[str, Any], tile: int, tokens: int, width: int
) -> None:
    model = ModelSpec.model_validate({"vision": vision})
    assert (model.vision.tile_size, model.vision.num_tokens, model.vision.feature_size) == (
        tile,
        tokens,
        width,
    )
    assert model.tokens_per_tile == tokens


@pytest.mark.parametrize(
    ("projector", "positions"),
    [
        ("linear", 576),
        ("mlp1x_gelu", 576),
        ("mlp12x_gelu", 576),
        ("spp_v1", 144),
        ("spp_v3", 144),
        ("ldp", 144),
        ("vanilla", 144),
        ("minigpt", 144),
        ("mlp_downsample", 144),
    ],
)
def test_positions_are_what_the_projector_leaves(projector: str, positions: int) -> None:
    recipe = load_recipe(
        "vita-1.5-7b", ["model.vision.kind=clip", f"model.projector.kind={projector}"]
    )
    assert recipe.model.tokens_per_tile == positions
    assert image_cost("336x336", recipe).endswith(f"1 tiles, {positions} positions")
    assert video_cost(4, recipe) == f"4 frames, {4 * positions} positions"
    assert corpus_settings(recipe)["vision"][:2] == [336, positions]


@pytest.mark.parametrize(
    ("projector", "positions"), [("spp_v2", 169), ("ldp", 196), ("mlp_downsample", 196)]
)
def test_an_odd_grid_is_halved_each_way(projector: str, positions: int) -> None:
    spec = ModelSpec.model_validate(
        {"vision": {"kind": "siglip"}, "projector": {"kind": projector}}
    )
    assert spec.tokens_per_tile == positions


@pytest.mark.parametrize(
    ("settings", "code", "facts"),
    [
        (
            ["model.vision.kind=siglop"],
            "VT-RECIPE-045",
            ["model.vision.kind", "internvit, clip, eva_clip, siglip"],
        ),
        (
            ["model.vision={kind: clip, shuffle: 2}"],
            "VT-RECIPE-050",
            ["'shuffle'", "model.vision"],
        ),
        (
            ["model.vision={kind: siglip, scales: [384, 500]}"],
            "VT-RECIPE-047",
            ["500", "image_size 384"],
        ),
        (
            ["model.vision={kind: siglip, scales: [768, 1152]}"],
            "VT-RECIPE-047",
            ["scales", "768", "image_size 384"],
        ),
        (
            ["model.vision={kind: clip, feature_layer: -25}"],
            "VT-RECIPE-047",
            ["feature_layer -25"],
        ),
        (
            ["model.vision={kind: clip, image_size: 340}"],
            "VT-RECIPE-047",
            ["340", "patch_size 14"],
        ),
        (["model.vision={kind: eva_clip, num_heads: 512}"], "VT-RECIPE-047", ["4 x num_heads"]),
        (["model.vision.image_size=450"], "VT-RECIPE-047", ["450", "patch_size x shuffle"]),
        (["model.vision.num_heads=7"], "VT-RECIPE-047", ["1024", "num_heads 7"]),
        (["model.projector.kind=mlp0x_gelu"], "VT-RECIPE-047", ["'mlp0x_gelu'", "mlpNx_gelu"]),
        (["model.projector.kind=identity"], "VT-RECIPE-047", ["4096", "llm.hidden_size is 3584"]),
        (
            ["model.vision={kind: siglip}", "model.projector.kind=vanilla"],
            "VT-RECIPE-047",
            ["vanilla", "27"],
        ),
    ],
)
def test_contradictions_say_what_they_are(settings: list[str], code: str, facts: list[str]) -> None:
    with raises_code(RecipeError, code, *facts):
        load_recipe("vita-1.5-7b", settings)


def test_the_tower_is_named_by_its_kind_alone() -> None:
    recipe = load_recipe("vita-1.5-7b", ["model.vision.source=weights/siglip-eva-clip"])
    assert isinstance(recipe.model.vision, InternVitSpec)


def test_other_towers_read_back() -> None:
    recipe = load_recipe("vita-1.5-7b", ["model.vision={kind: siglip, scales: [384, 768]}"])
    assert load_recipe(dump_recipe(recipe)) == recipe


def test_the_schema_knows_each_kind_s_settings() -> None:
    schema = recipe_json_schema()
    base = {"name": "x", "data": NO_SOURCE, "stages": {}}
    for vision in (
        {},
        {"image_size": 64},
        {"kind": "internvit", "shuffle": 1},
        {"kind": "siglip", "scales": [384]},
        {"kind": "eva_clip", "rope_grid": 16},
    ):
        jsonschema.validate({**base, "model": {"vision": vision}}, schema)
    for model in (
        {"vision": {"scales": [384]}},
        {"vision": {"kind": "clip", "shuffle": 2}},
        {"projector": {"kind": "mlp0x_gelu"}},
        {"projector": {"kind": "vlpatch"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**base, "model": model}, schema)
    jsonschema.validate({**base, "model": {"projector": {"kind": "mlp3x_gelu"}}}, schema)


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        (
            ["model.vision.image_size=128", "stages.1.1.batch.seq_len=48"],
            ["stages.1.1.batch.seq_len 48", "64"],
        ),
        (
            [
                "model.projector.kind=identity",
                "model.llm.hidden_size=512",
                "model.llm.num_heads=4",
                "model.llm.num_kv_heads=4",
                "model.speech_decoder.width=128",
                "model.speech_decoder.num_heads=4",
            ],
            ["stages.1.1.trainable", "projector"],
        ),
    ],
)
def test_a_recipe_is_checked_against_its_tower(settings: list[str], facts: list[str]) -> None:
    with raises_code(RecipeError, "VT-RECIPE-027", *facts):
        check_recipe(load_recipe("tiny", settings))


def test_what_is_given_needs_no_training() -> None:
    assert ModelSpec().pretrained == frozenset()
    model = ModelSpec.model_validate(
        {
            "vision": {"source": "there"},
            "llm": {"source": "there", "hidden_size": 4096, "num_heads": 32},
            "projector": {"kind": "identity"},
            "speech_decoder": {"width": 1024},
        }
    )
    assert model.pretrained == {"llm", "vision", "projector"}
    assert model.weightless == {"projector"}
