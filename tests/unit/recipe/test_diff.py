"""Two recipes compared, setting by setting."""

from __future__ import annotations

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.recipe.diff import ABSENT, Difference, differences
from vita_train.recipe.load import load_recipe


@pytest.mark.parametrize("name", ["tiny", "vita-1.5-7b", "finetune_qwen"])
def test_a_recipe_does_not_differ_from_itself(name: str) -> None:
    assert differences(load_recipe(name), load_recipe(name)) == []


def test_the_changes_and_nothing_else() -> None:
    changed = load_recipe(
        "tiny",
        [
            "stages.2.1b.steps=7",
            "seed=9",
            "weights.llm=w",
            "data.image.no_tile_sets=[a]",
            "launch.settings.kubernetes.pod.env.A=b",
        ],
    )
    first = load_recipe("tiny")
    assert differences(first, changed) == [
        Difference("data.image.no_tile_sets", "[]", '["a"]'),
        Difference("launch.settings.kubernetes.pod.env.A", ABSENT, '"b"'),
        Difference("seed", str(first.seed), "9"),
        Difference("stages.2.1b.steps", str(first.stages["2.1b"].steps), "7"),
        Difference("weights.llm", ABSENT, '"w"'),
    ]
    back = differences(changed, first)
    assert [(change.setting, change.second, change.first) for change in back] == differences(
        first, changed
    )
    assert str(back[2]) == f"seed: 9 -> {first.seed}"


def test_a_stage_that_only_one_has() -> None:
    changes = differences(load_recipe("tiny"), load_recipe("tiny", ["stages.3.2=null"]))
    assert changes
    assert all(
        change.setting.startswith("stages.3.2.") and change.second == ABSENT for change in changes
    )


def test_a_script_beside_our_stage() -> None:
    changes = differences(
        load_recipe("finetune_qwen"), load_recipe("vita-1.5-7b"), stage="finetune_qwen"
    )
    told = {change.setting: (change.first, change.second) for change in changes}
    assert not [
        name for name in told if name.startswith("stages.") and not name.startswith("stages.1.2.")
    ]
    assert told["stages.1.2.data.caption"] == (ABSENT, "1.0")
    assert told["storage.keep_last"] == ("1", "2")
    assert "stages.1.2.trainable.vision" not in told
    with raises_code(RecipeError, "VT-RECIPE-026", "llava-s2-pretrain_video", "'1.1'"):
        differences(load_recipe("finetune_qwen"), load_recipe("vita-1.5-7b"), stage="1.1")
