"""Which steps are picked, and which stages a stage builds on."""

from __future__ import annotations

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import UserError
from vita_train.recipe.graph import blocks, uncovered
from vita_train.recipe.load import load_recipe
from vita_train.recipe.selection import (
    Selection,
    input_stages,
    modules_read,
    run_steps,
    stage_graph,
    step_graph,
    step_name,
    step_title,
)

TINY = load_recipe("tiny")
REAL = load_recipe("vita-1.5-7b")


def test_everything_is_picked_by_default() -> None:
    assert Selection.parse(TINY).steps(TINY) == run_steps(TINY) == list(step_graph(TINY))


def test_until_takes_what_a_step_waits_for_and_from_what_waits_for_it() -> None:
    assert Selection.parse(TINY, until="1.1").steps(TINY) == [
        "data_fetch",
        "prepare",
        "preflight",
        "0.llm",
        "0.vision",
        "1.1",
    ]
    assert Selection.parse(TINY, until="3.1").steps(TINY) == [
        "data_fetch",
        "prepare",
        "preflight",
        "3.1",
    ]
    assert Selection.parse(TINY, since="2.1a").steps(TINY) == [
        "preflight",
        "2.1a",
        "2.1b",
        "2.2",
        "3.2",
        "evaluate",
        "export",
        "report",
    ]
    assert Selection.parse(TINY, since="prepare", until="1.1").steps(TINY) == [
        "prepare",
        "preflight",
        "0.llm",
        "0.vision",
        "1.1",
    ]


def test_only_takes_several_and_aliases() -> None:
    assert Selection.parse(TINY, only="finetune_qwen.sh, report").steps(TINY) == [
        "preflight",
        "1.2",
        "report",
    ]
    assert Selection.parse(TINY, only="report").steps(TINY) == ["report"]


@pytest.mark.parametrize(
    ("given", "code", "facts"),
    [
        ({"only": "1.1", "until": "1.2"}, "VT-USE-092", ["--only"]),
        ({"since": "1.2", "until": "1.1"}, "VT-USE-093", ["1.1", "1.2"]),
        ({"since": "3.1", "until": "2.2"}, "VT-USE-093", ["2.2", "3.1"]),
        ({"only": "evaluat"}, "VT-USE-091", ["evaluate"]),
        ({"until": "9.9"}, "VT-USE-091", ["data_fetch"]),
    ],
)
def test_contradictions_are_refused(given: dict[str, str], code: str, facts: list[str]) -> None:
    with raises_code(UserError, code, *facts):
        Selection.parse(TINY, **given)


def test_a_stage_builds_on_the_nearest_one_before_it_that_trained_each_module_it_reads() -> None:
    assert input_stages(TINY, "0.llm") == []
    assert input_stages(TINY, "2.1a") == []
    assert input_stages(TINY, "3.1") == []
    assert input_stages(TINY, "1.1") == ["0.llm", "0.vision"]
    assert input_stages(TINY, "2.1b") == ["1.3", "2.1a"]
    assert "1.1" not in input_stages(TINY, "2.2")
    assert input_stages(TINY, "3.2") == ["2.1a", "2.2", "3.1"]


def test_the_modules_a_stage_reads_follow_from_its_objective_and_what_comes_before_it() -> None:
    assert modules_read(REAL, "1.1") == ("llm", "vision", "projector")
    assert modules_read(REAL, "2.1a") == ("audio_encoder", "ctc_head")
    assert modules_read(REAL, "3.2") == (
        "llm",
        "audio_encoder",
        "ctc_head",
        "codec",
        "speech_decoder",
    )


def test_steps_of_a_recipe_are_its_stages_with_their_titles_and_what_is_around_them() -> None:
    assert run_steps(REAL) == [
        "data_fetch",
        "prepare",
        "preflight",
        *REAL.stages,
        "evaluate",
        "export",
        "report",
    ]
    assert step_title(REAL, "1.1") == "vision alignment"
    assert step_name(REAL, "codec") == "3.1"


def test_groups_nest_as_far_as_no_stage_waits_for_longer() -> None:
    groups = {stage: spec.group for stage, spec in TINY.stages.items()}
    assert blocks(stage_graph(TINY), groups) == [
        ("0.llm", "0.vision"),
        ("1.1", "1.2", "1.3"),
        ("2.1a",),
        ("2.1b", "2.2"),
        ("3.1",),
        ("3.2",),
    ]
    apart = {"a": (), "b": (), "of-a": ("a",)}
    assert blocks(apart, dict.fromkeys(apart, "one")) == [("a", "of-a"), ("b",)]
    assert blocks(apart, {}) == [("a",), ("b",), ("of-a",)]


def test_a_pipeline_covers_recipes_that_ask_for_no_more_than_its_order() -> None:
    ladder = stage_graph(TINY)
    assert uncovered(ladder, stage_graph(REAL)) == []
    assert uncovered(ladder, {"1.1": (), "new": ("1.1",)}) == ["it has no stage new"]
    assert uncovered(ladder, {"2.1a": ("1.3",), "1.3": ()}) == [
        "its stage 2.1a does not wait for 1.3"
    ]
