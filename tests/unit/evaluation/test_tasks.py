"""A stage takes its own measures and the earlier ones it can have changed, and nothing it cannot
take."""

from __future__ import annotations

from typing import Any

from tests.helpers.evaluation_world import small_recipe
from vita_train.evaluation.tasks import all_tasks, measures_for, modules_for
from vita_train.recipe.modules import MODULES


def datasets(names: list[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_goals_begin_with_the_stage_that_trains_on_them(world: Any) -> None:
    assert datasets(measures_for(world.recipe, world.corpus, "0.llm")) == {"textqa"}
    assert datasets(measures_for(world.recipe, world.corpus, "1.2")) == {"textqa", "caption"}
    assert measures_for(world.recipe, world.corpus, "2.1a") == ["asr.test.wer", "asr.test.cer"]
    assert measures_for(world.recipe, world.corpus, "3.2") == ["speech.test.wer", "speech.test.cer"]


def test_earlier_measures_are_taken_again_only_where_they_can_have_changed(world: Any) -> None:
    adapter = measures_for(world.recipe, world.corpus, "2.1b")
    assert datasets(adapter) == {"asr"}
    assert "asr.test.wer" not in adapter, "the adapter is no part of the recogniser"
    tuning = measures_for(world.recipe, world.corpus, "2.2")
    assert datasets(tuning) == {"textqa", "caption", "asr", "speech_qa", "negative"}
    assert "asr.test.wer" in tuning, "2.2 trains the encoder that the recogniser reads"


def test_paired_slices_and_marks_are_measured(world: Any) -> None:
    names = set(measures_for(world.recipe, world.corpus, "2.2"))
    assert {
        "speech_qa.test.accuracy",
        "speech_qa.test_typed.accuracy",
        "negative.test.state_mark",
    } <= names
    assert {name for name in names if name.endswith("state_mark")} == {
        "speech_qa.test.state_mark",
        "speech_qa.test_typed.state_mark",
        "negative.test.state_mark",
    }
    plain = world.recipe.model_copy(
        update={"data": world.recipe.data.model_copy(update={"state_mode": "none"})}
    )
    assert not any("state_mark" in name for name in measures_for(plain, world.corpus, "2.2"))


def test_modules_beyond_those_a_stage_trains_are_asked_for(world: Any) -> None:
    assert {"audio_encoder", "ctc_head", "codec"} == modules_for(world.recipe, world.corpus, "3.1")


def test_nothing_is_measured_through_a_part_that_nobody_trained(world: Any) -> None:
    """1.1 trains the projector, but the vision tower has neither a source nor an earlier stage."""
    assert measures_for(world.recipe, world.corpus, "1.1") == []
    model = world.recipe.model.model_copy(
        update={"vision": world.recipe.model.vision.model_copy(update={"source": "somewhere"})}
    )
    pretrained = small_recipe().model_copy(update={"model": model})
    assert datasets(measures_for(pretrained, world.corpus, "1.1")) == {"caption"}


def test_names_are_unique_and_modules_decide(world: Any) -> None:
    names = [name for task in all_tasks(world.recipe, world.corpus, MODULES) for name in task.names]
    assert len(names) == len(set(names))
    text_only = all_tasks(world.recipe, world.corpus, ["llm"])
    assert {task.dataset + "." + task.slice for task in text_only} == {
        "textqa.test",
        "speech_qa.test_typed",
    }
