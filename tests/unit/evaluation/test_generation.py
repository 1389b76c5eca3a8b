"""What counts of a caption is what it names."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vita_train.data.constants import STATE_MARKS
from vita_train.evaluation.generation import (
    content_words,
    prompt_of,
    recall_of_content,
    without_mark,
)
from vita_train.evaluation.measures import EvalContext, written
from vita_train.recipe.special_ids import IMAGE_ID


def test_attributes_count_places_and_grammar_do_not() -> None:
    assert content_words("A big red circle on the left and a small red star at the top.") == {
        "big": 1,
        "red": 2,
        "circle": 1,
        "small": 1,
        "star": 1,
    }


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a big red circle on the left.", 1.0),
        ("a big red circle at the top.", 1.0),
        ("a small red circle.", 2 / 3),
        ("red red red.", 1 / 3),
        ("", 0.0),
    ],
)
def test_recall(text: str, share: float) -> None:
    assert recall_of_content(["a big red circle on the left."], [text]) == pytest.approx(share)


def test_a_thing_named_twice_must_be_named_twice() -> None:
    assert recall_of_content(
        ["a red circle and a red star"], ["a red circle and a star"]
    ) == pytest.approx(3 / 4)
    assert math.isnan(recall_of_content(["on the left"], [""]))


def test_the_mark_is_not_part_of_the_words() -> None:
    assert without_mark("☜yes.", STATE_MARKS) == "yes."
    assert without_mark("no mark.", STATE_MARKS) == "no mark."
    assert without_mark("<2>it is <1>", ("<1>", "<2>", "<3>")) == "it is <1>"
    assert without_mark("☜as it stands", ("", "", "")) == "☜as it stands"


def test_prompts_end_where_the_reply_begins(world: Any) -> None:
    sample = world.corpus.index("caption", "test").sample(0)
    prompt = prompt_of(sample)
    expanded, labels = sample.expanded()
    assert prompt.input_ids.tolist() == expanded[: (labels >= 0).argmax()].tolist()
    assert int((prompt.input_ids == IMAGE_ID).sum()) == world.recipe.model.tokens_per_tile
    assert prompt.tiles is not None
    assert len(prompt.tiles) == 1


def test_written_replies_do_not_depend_on_company(world: Any) -> None:
    import torch

    context = EvalContext(world.recipe, world.corpus, world.modules, torch.device("cpu"))
    index = world.corpus.index("caption", "test")
    samples = [index.sample(place) for place in range(4)]
    assert written(context, samples) == [written(context, [sample])[0] for sample in samples]
