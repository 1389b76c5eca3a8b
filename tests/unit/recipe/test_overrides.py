"""Settings from the command line."""

from __future__ import annotations

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.recipe.load import load_recipe


@pytest.mark.parametrize(
    "path",
    [
        "stages.2.1b.steps",
        'stages."2.1b".steps',
        "stages.'2.1b'.steps",
        "stages.pretrain_audio_mlp_qwen.steps",
        "stages.pretrain_audio_mlp_qwen.sh.steps",
        " stages . 2.1b . steps ",
    ],
)
def test_stage_ids_with_dots(path: str) -> None:
    recipe = load_recipe("tiny", [f"{path}=7"])
    assert recipe.stages["2.1b"].steps == 7
    assert recipe.stages["2.1a"] == load_recipe("tiny").stages["2.1a"]


def test_values_are_yaml() -> None:
    recipe = load_recipe(
        "tiny",
        [
            "seed=3",
            "name=other",
            "storage.root=s3://bucket/a=b",
            "stages.1.1.trainable={projector: 1e-3}",
            "data.image.no_tile_sets=[a, b]",
            "tracking.tensorboard=false",
            "stages.3.1.options.mel=no",
            "stages.1.1.optim.betas=[0.5, 0.9]",
        ],
    )
    assert (recipe.seed, recipe.name, recipe.storage.root) == (3, "other", "s3://bucket/a=b")
    assert recipe.stages["1.1"].trainable == {"projector": 0.001}
    assert recipe.data.image.no_tile_sets == ("a", "b")
    assert recipe.tracking.tensorboard is False
    assert recipe.stages["3.1"].options["mel"] == "no"
    assert recipe.stages["1.1"].optim.betas == (0.5, 0.9)


def test_measures_have_dots_too() -> None:
    recipe = load_recipe(
        "tiny",
        [
            "stages.1.3.gates.vqa.test_seen.accuracy.min=0.5",
            "stages.1.3.gates.vqa.test_unseen.accuracy={min: 0.25}",
        ],
    )
    gates = recipe.stages["1.3"].gates
    assert gates["vqa.test_seen.accuracy"].min == 0.5
    assert gates["vqa.test_unseen.accuracy"].min == 0.25


def test_null_removes_an_entry() -> None:
    base = load_recipe("tiny")
    recipe = load_recipe(
        "tiny",
        [
            "stages.3.2=null",
            "stages.1.2.data.caption=null",
            "stages.1.1.steps=null",
            "stages.1.1.epochs=2",
        ],
    )
    assert set(base.stages) - set(recipe.stages) == {"3.2"}
    assert set(base.stages["1.2"].data) - set(recipe.stages["1.2"].data) == {"caption"}
    assert (recipe.stages["1.1"].steps, recipe.stages["1.1"].epochs) == (None, 2)


@pytest.mark.parametrize(
    "settings",
    [
        ["seed=1", "seed=2"],
        ["data.image.max_tiles=2", "data.image={max_tiles: 3}"],
        ["stages.1.1.steps=5", "stages.'1.1'.steps=6"],
    ],
)
def test_no_setting_undoes_another(settings: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("tiny", settings)
    assert caught.value.code == "VT-RECIPE-090"
    assert all(setting in str(caught.value) for setting in settings)


def test_settings_refine_one_another() -> None:
    refined = load_recipe("tiny", ["data.image={max_tiles: 2}", "data.image.min_tiles=2", "seed=1"])
    assert (refined.data.image.min_tiles, refined.data.image.max_tiles) == (2, 2)
    assert load_recipe("tiny", ["seed=1", "seed=1"]).seed == 1


@pytest.mark.parametrize(
    ("setting", "code", "facts"),
    [
        ("stages.1.1.stps=5", "VT-RECIPE-050", ["'stps'", "stages.1.1", "'steps'"]),
        ("stages.9.9.steps=5", "VT-RECIPE-043", ["stages.9.9.objective", "VT-RECIPE-044"]),
        ("launch.nproc=two", "VT-RECIPE-048", ["launch.nproc", '"two"']),
        ("model.llm.hidden=3", "VT-RECIPE-050", ["'hidden_size'"]),
        ("model.llm.hidden_size.x=3", "VT-RECIPE-038", ["model.llm.hidden_size"]),
        ("seed", "VT-RECIPE-036", ["a.b=c"]),
        ("=1", "VT-RECIPE-036", ["a.b=c"]),
        ("seed=[1", "VT-RECIPE-051", []),
        ('stages."1.1.steps=1', "VT-RECIPE-037", []),
    ],
)
def test_a_wrong_setting_is_quoted(setting: str, code: str, facts: list[str]) -> None:
    with raises_code(RecipeError, code, f"--set {setting}", *facts):
        load_recipe("tiny", [setting])
