"""Exercises of recall: every answer can be read off the words in the question, and none begins alike on both sides."""

from __future__ import annotations

import re
from random import Random

from vita_train.data.sources.synth.plan import Plan, Turns
from vita_train.data.sources.synth.recall import WORDS, add_recall, draw_recall
from vita_train.data.sources.synth.scenes import NUMBERS
from vita_train.data.sources.synth.splits import Splits


def solve(turns: Turns) -> list[str]:
    """Solve an exercise from its words alone."""
    text = turns[0][0]
    if found := re.fullmatch(r"Repeat these words: (.*)\.", text):
        return [f"they are {found[1]}."]
    if text.startswith("Which word is last"):
        return [f"{re.split('[ ?]', question)[-2]}." for question, _ in turns]
    head, question = text.split("\n")
    listed = head.removeprefix("The words are ").removesuffix(".")
    asked = [question, *(question for question, _ in turns[1:])]
    if "where is" in question:
        placed = dict(part.split(" ", 1) for part in listed.split(", "))
        return [f"{placed[question.removeprefix('where is ').removesuffix('?')]}." for question in asked]
    words = listed.split()
    named = [question.removesuffix("?").split()[-1] for question in asked]
    if "is there" in question:
        return [f"{'yes' if word in words else 'no'}." for word in named]
    if "how many" in question:
        return [f"{NUMBERS[words.count(word)]}." for word in named]
    said = []
    for one in question.removesuffix("?").split(", "):
        place = words.index(one.split()[-1]) + (2 if "second" in one else 1) * (1 if "after" in one else -1)
        assert place >= 0
        said.append(f"{one} {words[place]}")
    return [", ".join(said) + "."]


def test_every_answer_follows_from_its_question() -> None:
    rng = Random(0)
    drawn = [draw_recall(rng) for _ in range(2000)]
    for turns in drawn:
        assert [said for _, said in turns] == solve(turns)
    texts = [human for turns in drawn for human, _ in turns]
    for kind in ("Repeat", "Which word is last", "where is", "is there", "how many", "after", "before"):
        assert any(kind in text for text in texts)
    assert {word for text in texts for word in WORDS if f" {word}" in text} == set(WORDS)


def test_no_exercise_that_is_held_out_begins_as_one_in_training() -> None:
    plan = Plan(Splits.cut(3), 0.1, 200)
    add_recall(plan)
    asked = {name: {row["conversations"][0]["value"].partition("\n")[0] for row in rows}
             for name, rows in plan.records["recall"].items()}
    assert set(asked) == {"train", "dev"}
    assert len(asked["train"]) > 1700
    assert not asked["train"] & asked["dev"]
