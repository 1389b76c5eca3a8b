"""What the assistant knows and says without seeing anything: small talk, days, opposites, small
sums.

Every fact can be asked in several wordings, so that a test can ask a known fact in a wording not
met before.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from vita_train.data.sources.synth.scenes import NUMBERS

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
OPPOSITES = (
    ("big", "small"),
    ("hot", "cold"),
    ("up", "down"),
    ("left", "right"),
    ("day", "night"),
    ("open", "closed"),
    ("fast", "slow"),
    ("old", "new"),
    ("happy", "sad"),
    ("first", "last"),
)
COLOUR_OF = {
    "grass": "green",
    "the sky": "blue",
    "snow": "white",
    "coal": "black",
    "the sun": "yellow",
    "a tomato": "red",
}
NAMES = ("anna", "tom", "maria", "peter", "lucy", "david")
_LARGEST_SUM = 8

#: Small talk and its fixed answers.
TALK: dict[str, str] = {
    "hello.": "hello. how can i help?",
    "good morning.": "good morning.",
    "good night.": "good night.",
    "thank you.": "you are welcome.",
    "how are you?": "i am fine.",
    "what is your name?": "my name is vita.",
    "who are you?": "i am vita.",
    "goodbye.": "goodbye.",
    "can you help me?": "yes.",
    "can you see pictures?": "yes.",
    "can you hear me?": "yes.",
}

#: What the assistant says to audio that was not meant for it.
NOT_FOR_ME = "that was not for me."

Exchange = tuple[str, str]
"""What the user says and what the assistant answers."""


def facts() -> list[tuple[str, ...]]:
    """All facts; each is the answer followed by the wordings that ask for it."""
    return [*_day_facts(), *_opposite_facts(), *_colour_facts(), *_number_facts(), *_sum_facts()]


def exchanges() -> list[Exchange]:
    """Every single question and answer: all wordings of all facts, and small talk. Sorted."""
    asked = [(wording, fact[0]) for fact in facts() for wording in fact[1:]]
    return sorted({*asked, *TALK.items()})


def draw_dialogue(rng: Random, pool: list[Exchange]) -> list[Exchange]:
    """Draw one to three exchanges; one dialogue in five turns on the user's name."""
    if rng.random() < 0.2:
        name = rng.choice(NAMES)
        between = rng.choice(pool)
        return [
            (f"my name is {name}.", f"hello {name}."),
            between,
            ("what is my name?", f"your name is {name}."),
        ]
    return rng.sample(pool, rng.choice((1, 1, 2, 2, 3)))


def _day_facts() -> Iterator[tuple[str, ...]]:
    for place, day in enumerate(DAYS):
        later, earlier = DAYS[(place + 1) % 7], DAYS[place - 1]
        yield (
            f"{later}.",
            f"what day comes after {day}?",
            f"which day is after {day}?",
            f"tell me the day after {day}.",
        )
        yield (
            f"{earlier}.",
            f"what day comes before {day}?",
            f"which day is before {day}?",
            f"tell me the day before {day}.",
        )


def _opposite_facts() -> Iterator[tuple[str, ...]]:
    for pair in OPPOSITES:
        for word, other in (pair, pair[::-1]):
            yield (
                f"{other}.",
                f"what is the opposite of {word}?",
                f"tell me the opposite of {word}.",
                f"which word is the opposite of {word}?",
            )


def _colour_facts() -> Iterator[tuple[str, ...]]:
    for thing, colour in COLOUR_OF.items():
        yield (
            f"{colour}.",
            f"what colour is {thing}?",
            f"which colour is {thing}?",
            f"tell me the colour of {thing}.",
        )


def _number_facts() -> Iterator[tuple[str, ...]]:
    for number, following in pairwise(NUMBERS[1:]):
        yield (
            f"{following}.",
            f"what number comes after {number}?",
            f"which number is after {number}?",
            f"tell me the number after {number}.",
        )
    for last in range(2, 6):
        yield (
            " ".join(NUMBERS[1 : last + 1]) + ".",
            f"count to {NUMBERS[last]}.",
            f"please count to {NUMBERS[last]}.",
        )


def _sum_facts() -> Iterator[tuple[str, ...]]:
    for first in range(1, _LARGEST_SUM):
        for second in range(1, _LARGEST_SUM - first + 1):
            terms = NUMBERS[first], NUMBERS[second]
            yield (
                f"{NUMBERS[first + second]}.",
                "what is {} plus {}?".format(*terms),
                "add {} and {}.".format(*terms),
                "how much is {} and {}?".format(*terms),
            )
