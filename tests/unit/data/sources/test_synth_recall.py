"""Exercises of recall: every answer can be read off the words in the question, and none begins
alike on both sides."""

from __future__ import annotations

import re
from random import Random

from vita_train.data.sources.synth.plan import Plan
from vita_train.data.sources.synth.recall import WORDS, add_recall, draw_recall
from vita_train.data.sources.synth.splits import Splits


def answer(text: str) -> str:
    """Solve an exercise from its words alone."""
    if found := re.fullmatch(r"Repeat these words: (.*)\.", text):
        return f"they are {found[1]}."
    if found := re.fullmatch(r"Repeat these words backwards: (.*)\.", text):
        return f"they are {' '.join(reversed(found[1].split()))}."
    if found := re.fullmatch(r"Which word is last: (.*)\?", text):
        return f"{found[1].split()[-1]}."
    found = re.fullmatch(r"The words are (.*)\.\n(.*)\?", text)
    assert found, text
    words, said = found[1].split(), []
    for asked in found[2].split(", "):
        word = asked.split()[-1]
        far = (2 if "second" in asked else 1) * (1 if "after" in asked else -1)
        assert words.index(word) + far >= 0
        said.append(f"{asked} {words[words.index(word) + far]}")
    return ", ".join(said) + "."


def test_every_answer_follows_from_its_question() -> None:
    rng = Random(0)
    drawn = [draw_recall(rng) for _ in range(2000)]
    turns = [turn for record in drawn for turn in record]
    for human, said in turns:
        assert said == answer(human)
    assert {human.split()[0] for human, _ in turns} == {"Repeat", "Which", "The"}
    assert {word for human, _ in turns for word in WORDS if f" {word}" in human} == set(WORDS)


def test_no_exercise_that_is_held_out_begins_as_one_in_training() -> None:
    plan = Plan(Splits.cut(3), 0.1, 200)
    add_recall(plan)
    asked = {
        name: {row["conversations"][0]["value"] for row in rows}
        for name, rows in plan.records["recall"].items()
    }
    assert set(asked) == {"train", "dev"}
    assert len(asked["train"]) > 1900
    assert not asked["train"] & asked["dev"]
