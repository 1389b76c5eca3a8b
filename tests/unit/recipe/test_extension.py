"""Extensions and accepted gates: how they are given, and what a run remembers of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import UserError
from vita_train.recipe.extension import extended, remember
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe


def smoke(*settings: str) -> Recipe:
    return load_recipe("smoke", settings)


def test_extensions_add_up_and_aliases_are_understood() -> None:
    recipe = extended(smoke(), ["0.llm=30", "finetune_qwen=5"], [])
    recipe = extended(recipe, ["0.llm=10"], ["1.2"])
    assert recipe.stages["0.llm"].extend == [30, 10]
    assert recipe.stages["1.2"].extend == [5]
    assert [stage for stage, spec in recipe.stages.items() if spec.accept] == ["1.2"]


@pytest.mark.parametrize(
    "text", ["0.llm", "0.llm=", "=5", "0.llm=0", "0.llm=-3", "0.llm=1.5", "0.llm=many"]
)
def test_what_is_not_an_extension(text: str) -> None:
    with pytest.raises(UserError):
        extended(smoke(), [text], [])


@pytest.mark.parametrize(("extend", "accept"), [(["2.1a=5"], []), ([], ["2.1a"])])
def test_a_stage_that_the_recipe_lacks(extend: Sequence[str], accept: Sequence[str]) -> None:
    recipe = smoke("stages.2.1a=null", "stages.2.1b.after=[1.3]")
    with raises_code(UserError, "VT-RECIPE-026"):
        extended(recipe, extend, accept)


def test_a_run_remembers_them_until_the_stage_changes() -> None:
    earlier = extended(smoke(), ["0.llm=30", "1.1=4"], ["1.2"])
    again = remember(smoke(), earlier)
    assert again.stages == earlier.stages
    changed = remember(smoke("stages.0.llm.steps=9"), earlier)
    assert changed.stages["0.llm"].extend == []
    assert changed.stages["1.1"].extend == [4]
    assert remember(smoke(), None) == smoke()


def test_what_the_recipe_says_goes_first() -> None:
    earlier = extended(smoke(), ["0.llm=30"], [])
    assert remember(smoke("stages.0.llm.extend=[7, 8]"), earlier).stages["0.llm"].extend == [7, 8]
