"""Exercises of recall and lookup: every answer can be read off the words in the question, and none
begins alike on both sides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from vita_train.data.sources.synth.lookup import add_lookup, draw_lookup
from vita_train.data.sources.synth.plan import Plan
from vita_train.data.sources.synth.recall import WORDS, add_recall, draw_recall
from vita_train.data.sources.synth.scenes import COLOURS, PLACES, SHAPES
from vita_train.data.sources.synth.splits import Splits


def test_the_word_before_follows_from_the_row() -> None:
    rng = Random(0)
    drawn = [draw_recall(rng) for _ in range(2000)]
    for ((human, said),) in drawn:
        found = re.fullmatch(r"The words are (.*)\.\nwhat is before (.*)\?", human)
        assert found, human
        words, asked = found[1].split(), found[2].split(", ")
        assert len(set(asked)) == len(asked)
        before = dict(zip(words[1:], words, strict=False))
        assert said == ", ".join(f"{word} {before[word]}" for word in asked) + "."
    assert {word for ((human, _),) in drawn for word in WORDS if f" {word}" in human} == set(WORDS)


def test_what_is_looked_up_follows_from_the_scene() -> None:
    rng, sizes, sought = Random(0), Counter[int](), Counter[str]()
    places = {phrase: place for place, phrase in PLACES.items()}
    for _ in range(2000):
        ((human, said),) = draw_lookup(rng, Splits.cut(3), "train")
        caption, question = human.removesuffix("?").split("\n")
        things = [
            {"size": size, "colour": colour, "shape": shape, "place": places[place]}
            for size, colour, shape, place in re.findall(
                rf"a (big|small) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(places)})",
                caption,
            )
        ]
        sizes[len(things)] += 1
        answers = []
        for asked in question.split(", "):
            name, key = asked.split()
            (thing,) = [thing for thing in things if key in thing.values()]
            assert thing[name] != key
            sought[name] += 1
            answers.append(f"{asked} {thing[name]}")
        assert said == ", ".join(answers) + "."
    assert set(sizes) == {2, 3, 4, 5}
    assert set(sought) == {"colour", "shape", "size", "place"}


@pytest.mark.parametrize(("name", "add"), [("recall", add_recall), ("lookup", add_lookup)])
def test_no_exercise_that_is_held_out_begins_as_one_in_training(
    name: str, add: Callable[[Plan], None]
) -> None:
    plan = Plan(Splits.cut(3), 0.1, 200)
    add(plan)
    asked = {
        part: {row["conversations"][0]["value"] for row in rows}
        for part, rows in plan.records[name].items()
    }
    assert set(asked) == {"train", "dev"}
    assert len(asked["train"]) > 1900
    assert not asked["train"] & asked["dev"]
