"""Questions have the answers that the caption gives, and images show what the caption says."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from io import BytesIO
from random import Random

import numpy as np
import pytest
from PIL import Image

from vita_train.data.sources.synth.images import Look, encode_jpeg, paint_scene
from vita_train.data.sources.synth.pairs import pair_questions
from vita_train.data.sources.synth.questions import all_questions, ask, plural
from vita_train.data.sources.synth.scenes import (
    ALL_PAIRS,
    COLOURS,
    NUMBERS,
    SHAPES,
    Scene,
    Thing,
    draw_scene,
    held_out_pairs,
)
from vita_train.data.sources.synth.videos import draw_video, video_questions


def parse(caption: str) -> list[dict[str, str]]:
    """Things of a caption, read back from its words alone."""
    pattern = r"a (?P<size>\w+) (?P<colour>\w+) (?P<shape>\w+) (?P<place>(?:at|on|in) the \w+)"
    return [match.groupdict() for match in re.finditer(pattern, caption)]


def matching(things: list[dict[str, str]], phrase: str) -> list[dict[str, str]]:
    """Things that a phrase such as ``big circles``, ``red shape`` or ``shape on the left`` may
    mean."""
    kept = things
    for word in re.sub(
        r"(at|on|in) the \w+", lambda place: place[0].replace(" ", "_"), phrase
    ).split():
        word = word.replace("_", " ")
        singular = next((shape for shape in SHAPES if plural(shape) == word), word)
        if singular not in ("shape", "shapes"):
            kept = [thing for thing in kept if singular in thing.values()]
    return kept


def answer_to(question: str, things: list[dict[str, str]]) -> str:
    """Answer a question from parsed things."""
    for pattern, name in (
        (r"what colour is the (.+)\?", "colour"),
        (r"which shape is (.+)\?", "shape"),
        (r"is the (.+) big or small\?", "size"),
        (r"where is the (.+)\?", "place"),
    ):
        if match := re.fullmatch(pattern, question):
            (thing,) = matching(things, match[1])
            return thing[name] + "."
    if match := re.fullmatch(r"how many (.+) are there\?", question):
        return NUMBERS[len(matching(things, match[1]))] + "."
    match = re.fullmatch(r"is there a (.+)\?", question)
    assert match, question
    return "yes." if matching(things, match[1]) else "no."


def test_every_answer_follows_from_the_caption() -> None:
    rng, known = Random(0), set(all_questions())
    answers: Counter[str] = Counter()
    for _ in range(4000):
        scene = draw_scene(rng, ALL_PAIRS)
        question = ask(scene, rng)
        assert question.text in known
        assert question.answer == answer_to(question.text, parse(scene.caption)), (
            scene.caption,
            question,
        )
        answers[question.answer] += 1
    assert max(answers.values()) / 4000 < 0.1, "a constant answer would score"
    assert len(answers) > 20


def test_all_question_kinds_are_reached() -> None:
    rng = Random(1)
    drawn = {ask(draw_scene(rng, ALL_PAIRS), rng).text for _ in range(15000)}
    assert drawn == set(all_questions())


def test_a_question_about_a_thing_names_or_answers_it() -> None:
    rng = Random(2)
    for _ in range(300):
        scene = draw_scene(rng, ALL_PAIRS, first=("red", "ring"))
        thing = next(thing for thing in scene.things if thing.pair == ("red", "ring"))
        question = ask(scene, rng, about=thing)
        if question.kind in ("colour", "shape"):
            assert question.answer in ("red.", "ring.")


def test_pair_and_film_answers() -> None:
    rng = Random(3)
    for _ in range(500):
        first, second = draw_scene(rng, ALL_PAIRS, count=1), draw_scene(rng, ALL_PAIRS, count=1)
        (one,), (two,) = parse(first.caption), parse(second.caption)
        for question in pair_questions(first, second, rng):
            if match := re.fullmatch(r"which picture has a (\w+)( shape)?\?", question.text):
                has = match[1] in one.values(), match[1] in two.values()
                assert (
                    question.answer
                    == {
                        (1, 0): "the first.",
                        (0, 1): "the second.",
                        (1, 1): "both.",
                        (0, 0): "neither.",
                    }[has]
                )
            elif "same colour" in question.text:
                assert question.answer == ("yes." if one["colour"] == two["colour"] else "no.")
            else:
                thing = one if "first" in question.text else two
                assert question.answer[:-1] in (thing["colour"], thing["shape"])
        film = draw_video(rng, ALL_PAIRS)
        frames = [parse(line)[0] for line in film.text.splitlines()]
        asked = {question.text: question.answer for question in video_questions(film, rng)}
        shape = frames[0]["shape"]
        assert asked[f"does the {shape} move?"] == (
            "yes." if len({frame["place"] for frame in frames}) > 1 else "no."
        )
        changed = frames[0]["colour"] != frames[3]["colour"]
        assert asked[f"does the {shape} change colour?"] == ("yes." if changed else "no.")
        if (end := asked.get(f"what colour is the {shape} at the end?")) is not None:
            assert end == frames[3]["colour"] + "."


def test_colours_are_closed_under_exchange_of_channels() -> None:
    values = set(COLOURS.values())
    for order in itertools.permutations(range(3)):
        assert {tuple(colour[channel] for channel in order) for colour in values} == values


@pytest.mark.parametrize("colour", list(COLOURS))
def test_pictures_show_their_colours_after_jpeg(colour: str) -> None:
    things = (Thing("big", colour, "square", "left"), Thing("small", "red", "circle", "right"))
    look = Look.draw(Random(5), 2)
    picture = np.asarray(
        Image.open(BytesIO(encode_jpeg(paint_scene(Scene(things), look)))), dtype=int
    )
    for (x, y), expected in (((16, 32), COLOURS[colour]), ((48, 32), COLOURS["red"])):
        assert np.abs(picture[y, x] - expected).max() < 25
        nearest = min(COLOURS, key=lambda name: int(np.abs(picture[y, x] - COLOURS[name]).sum()))
        assert COLOURS[nearest] == expected


def test_sizes_and_shapes_differ_clearly() -> None:
    look = Look(128, ((0, 0),), (1,), (0,))
    masks = {
        (size, shape): np.asarray(paint_scene(Scene((Thing(size, "red", shape, "middle"),)), look))[
            ..., 0
        ]
        > 170
        for size in ("big", "small")
        for shape in SHAPES
    }
    for size in ("big", "small"):
        for one, other in itertools.combinations(SHAPES, 2):
            differing = (masks[size, one] ^ masks[size, other]).sum()
            assert differing > 0.15 * masks[size, one].sum(), (size, one, other)
    for shape in SHAPES:
        assert masks["big", shape].sum() > 2 * masks["small", shape].sum()


def test_held_out_pairs_take_each_colour_once() -> None:
    for seed in range(5):
        pairs = held_out_pairs(Random(seed))
        assert sorted(colour for colour, _ in pairs) == sorted(COLOURS)
        assert max(Counter(shape for _, shape in pairs).values()) <= 2
        assert 0.15 <= len(pairs) / len(ALL_PAIRS) <= 0.2
