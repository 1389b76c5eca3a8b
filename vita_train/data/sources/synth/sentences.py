"""What is spoken in this world: the sentences of the recogniser's grammar, by family.

Spoken forms only: lower-case words separated by single spaces. Families differ in size (a handful
of greetings, thousands of descriptions), so a family is drawn first and a sentence second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vita_train.data.sources.synth.knowledge import (
    DAYS,
    NAMES,
    NOT_FOR_ME,
    OPPOSITES,
    TALK,
    exchanges,
)
from vita_train.data.sources.synth.questions import all_questions, plural
from vita_train.data.sources.synth.scenes import ALL_PAIRS, COLOURS, NUMBERS, PLACES, SHAPES, SIZES

_PEOPLE = ("i", "we", "they", "my sister", "my brother", "the teacher", "anna", "tom")
_ERRANDS = (
    "call the doctor",
    "buy some bread",
    "paint the door",
    "read a book",
    "clean the kitchen",
    "visit the park",
    "open the window",
    "cook some soup",
    "wash the car",
    "write a letter",
)
_TIMES = ("today", "tomorrow", "tonight", "in the morning", *(f"on {day}" for day in DAYS))
_CITIES = ("london", "paris", "rome", "berlin")


@dataclass(frozen=True)
class Family:
    """Sentences of one kind and how often that kind is drawn."""

    name: str
    weight: float
    sentences: tuple[str, ...]
    always_train: bool = False
    """Too few to spare any for a test."""


def spoken(text: str) -> str:
    """The spoken form of a written text: lower case, words only."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def asr_families() -> tuple[Family, ...]:
    """Families of the recogniser's grammar; they cover every wording that any dataset speaks."""
    return (
        Family("questions", 0.21, _sorted(map(spoken, all_questions()))),
        Family(
            "requests",
            0.14,
            _sorted(spoken(question) for question, _ in exchanges() if question not in TALK),
        ),
        Family("talk", 0.08, _sorted(_talk()), always_train=True),
        Family("descriptions", 0.17, _sorted(_descriptions())),
        Family("statements", 0.08, _sorted(_statements())),
        Family("side_talk", 0.13, side_talk()),
        Family("radio", 0.06, radio_talk()),
        Family("answers", 0.13, _sorted(_answers()), always_train=True),
    )


def tts_families() -> tuple[Family, ...]:
    """Families of what the assistant says, one to seven words."""
    phrases = {f"a {size} {colour} {shape}" for size in SIZES for colour, shape in ALL_PAIRS}
    placed = {f"{phrase} {place}" for phrase in phrases for place in PLACES.values()}
    facts = {
        f"the {colour} {shape} is {place}"
        for colour, shape in ALL_PAIRS
        for place in PLACES.values()
    }
    return (
        Family("answers", 0.25, _sorted(_answers()), always_train=True),
        Family("phrases", 0.15, _sorted(phrases)),
        Family("placed", 0.3, _sorted(placed)),
        Family("facts", 0.1, _sorted(facts)),
        Family("statements", 0.2, _sorted(_statements())),
    )


def side_talk() -> tuple[str, ...]:
    """What people say to each other, not to the assistant."""
    plans = {
        f"{who} will {errand} {time}" for who in _PEOPLE for errand in _ERRANDS for time in _TIMES
    }
    asides = {
        f"{name} said that {who} will {errand}"
        for name in NAMES
        for who in _PEOPLE[:5]
        for errand in _ERRANDS
        if name != who
    }
    return _sorted(plans | asides)


def radio_talk() -> tuple[str, ...]:
    """What a radio in the room says."""
    trains = {
        f"the {what} to {city} leaves at {number}"
        for what in ("train", "bus")
        for city in _CITIES
        for number in NUMBERS[1:]
    }
    weather = {
        f"the weather in {city} is {word} {time}"
        for city in _CITIES
        for word in ("hot", "cold", "fine")
        for time in ("today", "tonight", *(f"on {day}" for day in DAYS))
    }
    return _sorted(trains | weather)


def vocabulary(families: tuple[Family, ...]) -> list[str]:
    """Every word of the families, sorted."""
    return sorted(
        {word for family in families for sentence in family.sentences for word in sentence.split()}
    )


def _descriptions() -> set[str]:
    single = {
        f"there is a {size} {colour} {shape} {place}"
        for size in SIZES
        for colour, shape in ALL_PAIRS
        for place in PLACES.values()
    }
    double = {
        f"i see a {first} {shape} and a {second} {other}"
        for first, shape in ALL_PAIRS
        for second, other in ALL_PAIRS
        if first != second and shape != other
    }
    phrases = {
        f"a {size} {colour} {shape} {place}"
        for size in SIZES
        for colour, shape in ALL_PAIRS
        for place in PLACES.values()
    }
    return single | double | phrases


def _statements() -> set[str]:
    coloured = {f"the {size} {shape} is {colour}" for size in SIZES for colour, shape in ALL_PAIRS}
    counted = {
        f"there are {number} {size} {plural(shape)}"
        for number in ("two", "three")
        for size in SIZES
        for shape in SHAPES
    }
    placed = {f"the {shape} is {place}" for shape in SHAPES for place in PLACES.values()}
    sums = {
        f"{NUMBERS[a]} and {NUMBERS[b]} make {NUMBERS[a + b]}"
        for a in range(1, 8)
        for b in range(1, 9 - a)
    }
    return coloured | counted | placed | sums


def _talk() -> set[str]:
    names = {
        phrase
        for name in NAMES
        for phrase in (f"hello {name}", f"your name is {name}", f"my name is {name}")
    }
    talk = {spoken(text) for exchange in TALK.items() for text in exchange}
    return names | talk | {"what is my name", spoken(NOT_FOR_ME)}


def _answers() -> set[str]:
    words = {
        *COLOURS,
        *SHAPES,
        *SIZES,
        *NUMBERS,
        *PLACES.values(),
        *DAYS,
        "yes",
        "no",
        "the first",
        "the second",
        "both",
        "neither",
        "up",
        "down",
        *(word for pair in OPPOSITES for word in pair),
    }
    return words | {spoken(answer) for _, answer in exchanges()}


def _sorted(sentences: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(sentences)))
