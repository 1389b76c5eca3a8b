"""Which steps are picked, and which stages a stage builds on."""

from __future__ import annotations

import pytest
from vita_train.recipe.ladder import MODULES, STAGES

from vita_train.errors import UserError
from vita_train.recipe.load import load_recipe
from vita_train.recipe.selection import MODULES_READ, STEP_TITLES, STEPS, Selection, input_stages, run_steps, step_id


def test_everything_is_picked_by_default() -> None:
    assert [step for step in STEPS if Selection.parse().picks(step)] == list(STEPS)


def test_span_includes_both_ends() -> None:
    chosen = Selection.parse(since="prepare", until="1.1")
    assert [step for step in STEPS if chosen.picks(step)] == ["prepare", "0.llm", "0.vision", "1.1"]


def test_only_takes_several_and_aliases() -> None:
    chosen = Selection.parse(only="finetune_qwen.sh, report")
    assert [step for step in STEPS if chosen.picks(step)] == ["1.2", "report"]


@pytest.mark.parametrize(("given", "message"), [
    ({"only": "1.1", "until": "1.2"}, "combined"),
    ({"since": "1.2", "until": "1.1"}, "empty"),
    ({"only": "evaluat"}, "did you mean evaluate"),
    ({"until": "9.9"}, "steps are data_fetch"),
])
def test_contradictions_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Selection.parse(**given)


def test_a_stage_builds_on_the_last_one_that_trained_each_module_it_reads() -> None:
    tiny = load_recipe("tiny")
    assert input_stages(tiny, "0.llm") == []
    assert input_stages(tiny, "2.1a") == []
    assert input_stages(tiny, "1.1") == ["0.llm", "0.vision"]
    assert "1.3" in input_stages(tiny, "2.1b")
    assert "1.1" not in input_stages(tiny, "2.2")
    assert {"2.2", "3.1"} <= set(input_stages(tiny, "3.2"))


def test_stages_that_a_recipe_leaves_out_are_no_steps_of_it() -> None:
    real = load_recipe("vita-1.5-7b")
    assert [step for step in run_steps(real) if step in STAGES] == list(real.stages)


def test_tables_cover_every_stage_with_known_modules() -> None:
    assert set(MODULES_READ) == set(STAGES)
    assert set(STEP_TITLES) == set(STEPS)
    assert {name for names in MODULES_READ.values() for name in names} <= set(MODULES)
    assert step_id("codec") == "3.1"
