"""Names of a graph's nodes: whole words, and no more than the page shows."""

from __future__ import annotations

from vita_train.pipeline.labels import SHOWN, group_label, step_label
from vita_train.recipe.load import load_recipe
from vita_train.recipe.presets import preset_names
from vita_train.recipe.selection import run_steps, step_title

TINY = load_recipe("tiny")


def test_every_name_of_the_shipped_recipes_can_be_read_and_says_nothing_twice() -> None:
    for name in preset_names():
        recipe = load_recipe(name)
        for step in run_steps(recipe):
            label = step_label(recipe, step)
            words = label.lower().split()
            assert len(label) <= SHOWN, label
            assert words[0] == step
            assert len(set(words)) == len(words), label
            assert {*words[1:]} <= {*step_title(recipe, step).lower().split()}


def test_as_many_words_of_a_title_stand_in_a_row_as_fit() -> None:
    assert step_label(TINY, "1.1") == "1.1 vision alignment"
    assert step_label(TINY, "0.llm") == "0.llm language model"
    assert step_label(TINY, "0.vision") == "0.vision bootstrap"
    assert step_label(TINY, "report") == "report"


def test_a_group_is_named_with_its_stages_where_it_stands_in_several_places() -> None:
    blocks = [("1.1", "1.2", "1.3"), ("2.1a",), ("2.1b", "2.2")]
    assert group_label(TINY, blocks[0], blocks) == "see"
    assert group_label(TINY, blocks[2], blocks) == "hear: 2.1b, 2.2"
