"""Datasets of text alone: textqa, instruct, dialogue.

They teach the language model what the later stages only give it another way to hear and see: scenes
stand in words where an image will stand, sentences where speech will. Every pair of colour and
shape occurs here, also those held out from images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from vita_train.data.sources.synth.knowledge import NOT_FOR_ME, Exchange, draw_dialogue, exchanges
from vita_train.data.sources.synth.pairs import pair_questions
from vita_train.data.sources.synth.plan import Plan, Turns, rounds
from vita_train.data.sources.synth.questions import Question, ask
from vita_train.data.sources.synth.scenes import ALL_PAIRS
from vita_train.data.sources.synth.sentences import asr_families, radio_talk, side_talk, spoken
from vita_train.data.sources.synth.splits import Splits, rng_for
from vita_train.data.sources.synth.videos import video_questions
from vita_train.data.sources.synth.visual import (
    DESCRIBE,
    scene_of,
    scene_pair_of,
    scene_questions,
    video_of,
)

TRANSCRIBE = "Transcribe the speech."
REPEAT = "Repeat:"

#: Instruction kinds and their share.
_INSTRUCTIONS: dict[str, float] = {
    "repeat": 0.12,
    "transcribe": 0.2,
    "describe": 0.14,
    "pair": 0.16,
    "film": 0.12,
    "spoken_scene": 0.13,
    "spoken_request": 0.08,
    "side_talk": 0.05,
}


def exchanges_of(splits: Splits, split: str) -> list[Exchange]:
    """Questions and answers whose wording belongs to a split."""
    return [
        exchange for exchange in exchanges() if splits.of_sentence(spoken(exchange[0])) == split
    ]


def add_textqa(plan: Plan) -> None:
    """A scene in words and questions about it."""
    for name, split, number in plan.slices("textqa"):
        rng = rng_for(plan.splits.seed, "textqa", name)
        asked: set[tuple[str, str]] = set()
        for _ in range(number):
            scene, questions = scene_questions(plan.splits, name, split, rng, ALL_PAIRS, asked)
            plan.add("textqa", name, rounds(scene.caption, questions))


def add_dialogue(plan: Plan) -> None:
    """Small talk and simple knowledge, one to three rounds."""
    for name, split, number in plan.slices("dialogue"):
        rng = rng_for(plan.splits.seed, "dialogue", name)
        pool = exchanges_of(plan.splits, split)
        for _ in range(number):
            plan.add("dialogue", name, draw_dialogue(rng, pool))


def add_instruct(plan: Plan) -> None:
    """Every instruction of the other datasets with words in place of images and speech."""
    for name, split, number in plan.slices("instruct"):
        rng = rng_for(plan.splits.seed, "instruct", name)
        maker = _Instructions(plan.splits, split, rng, number)
        kinds = rng.choices(list(_INSTRUCTIONS), list(_INSTRUCTIONS.values()), k=number)
        # A few records of a smoke run still hold every kind.
        kinds[: len(_INSTRUCTIONS)] = list(_INSTRUCTIONS)[:number]
        for kind in kinds:
            plan.add("instruct", name, maker.make(kind))


class _Instructions:
    """Draws instruction records of one split."""

    def __init__(self, splits: Splits, split: str, rng: Random, number: int) -> None:
        self.splits, self.split, self.rng = splits, split, rng
        self.sentences: Iterator[str] = iter(
            splits.draw_sentences(asr_families(), split, number, rng)
        )
        self.requests = exchanges_of(splits, split)
        self.asides = [
            text for text in (*side_talk(), *radio_talk()) if splits.of_sentence(text) == split
        ]

    def make(self, kind: str) -> Turns:
        """Draw the turns of one record of a kind of ``_INSTRUCTIONS``."""
        return _MAKERS[kind](self)

    def repeat(self) -> Turns:
        if self.rng.random() < 0.5:
            caption = scene_of(self.splits, self.split, self.rng, ALL_PAIRS).caption
            return [(f"{REPEAT} {caption}", caption)]
        sentence = next(self.sentences)
        return [(f"{REPEAT} {sentence}", sentence)]

    def transcribe(self) -> Turns:
        sentence = next(self.sentences)
        return [(f"{sentence}\n{TRANSCRIBE}", sentence)]

    def describe(self) -> Turns:
        caption = scene_of(self.splits, self.split, self.rng, ALL_PAIRS).caption
        return [(f"{caption}\n{DESCRIBE}", caption)]

    def pair(self) -> Turns:
        scenes = scene_pair_of(self.splits, self.split, self.rng, ALL_PAIRS)
        questions = pair_questions(*scenes, self.rng)[: self.rng.randint(1, 3)]
        return rounds(f"{scenes[0].caption}\n{scenes[1].caption}", questions)

    def film(self) -> Turns:
        video = video_of(self.splits, self.split, self.rng, ALL_PAIRS)
        return rounds(video.text, video_questions(video, self.rng)[: self.rng.randint(1, 3)])

    def spoken_scene(self) -> Turns:
        scene = scene_of(self.splits, self.split, self.rng, ALL_PAIRS)
        question = spoken_question(lambda: ask(scene, self.rng), self.splits, self.split)
        return [(f"{scene.caption}\n{spoken(question.text)}", question.answer)]

    def spoken_request(self) -> Turns:
        question, answer = self.rng.choice(self.requests)
        return [(spoken(question), answer)]

    def side_talk(self) -> Turns:
        return [(self.rng.choice(self.asides), NOT_FOR_ME)]


_MAKERS: dict[str, Callable[[_Instructions], Turns]] = {
    kind: getattr(_Instructions, kind) for kind in _INSTRUCTIONS
}


def spoken_question(draw: Callable[[], Question], splits: Splits, split: str) -> Question:
    """Draw a question; in training only one whose wording training may speak."""
    while True:
        question = draw()
        if split != "train" or splits.of_sentence(spoken(question.text)) == split:
            return question
