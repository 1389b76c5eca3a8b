"""Dataset recall: words in a row to be said again, forwards, backwards, the last of them, or those
beside others.

Language models that learn from little text stay on a plateau where they name something of a scene,
but not what was asked for: finding a word again and reading what stands beside it pay off only
together. Here each pays by itself, and nearly every supervised token needs it. Trained on this
first, a model finds the other in a few hundred steps (``benchmarks/results/tiny_quality.md``).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from vita_train.data.sources.synth.plan import Plan, Turns
from vita_train.data.sources.synth.scenes import COLOURS, NUMBERS, PLACES, SHAPES, SIZES
from vita_train.data.sources.synth.splits import DEV, rng_for, split_of

WORDS: tuple[str, ...] = (*COLOURS, *SHAPES, *SIZES, *PLACES, *NUMBERS[:6])

#: How far from the named word, and how one asks for it.
_BESIDE: dict[int, str] = {1: "after", -1: "before", 2: "second after", -2: "second before"}
_KINDS: dict[str, float] = {"repeat": 0.13, "backwards": 0.17, "last": 0.2, "beside": 0.5}


def add_recall(plan: Plan) -> None:
    """Rows of words and what is to be said of them. Has no test: it serves what the other datasets
    measure."""
    for name, split, number in plan.slices("recall", ()):
        rng = rng_for(plan.splits.seed, "recall", name)
        for _ in range(number):
            turns = draw_recall(rng)
            while (split_of(plan.splits.seed, turns[0][0]) == DEV) != (split == DEV):
                turns = draw_recall(rng)
            plan.add("recall", name, turns)


def draw_recall(rng: Random) -> Turns:
    """Draw one exercise."""
    return _MAKERS[rng.choices(list(_KINDS), list(_KINDS.values()))[0]](rng)


def _repeat(rng: Random) -> Turns:
    words = " ".join(rng.sample(WORDS, rng.randint(4, 16)))
    return [(f"Repeat these words: {words}.", f"they are {words}.")]


def _backwards(rng: Random) -> Turns:
    words = rng.sample(WORDS, rng.randint(4, 10))
    return [
        (f"Repeat these words backwards: {' '.join(words)}.", f"they are {' '.join(words[::-1])}.")
    ]


def _last(rng: Random) -> Turns:
    rows = [rng.sample(WORDS, rng.randint(2, 5)) for _ in range(rng.randint(1, 3))]
    return [(f"Which word is last: {' '.join(words)}?", f"{words[-1]}.") for words in rows]


def _beside(rng: Random) -> Turns:
    words, asked = rng.sample(WORDS, rng.randint(4, 7)), []
    for _ in range(rng.randint(3, 5)):
        far = rng.choice(list(_BESIDE))
        place = rng.randrange(max(0, -far), min(len(words), len(words) - far))
        asked.append((f"{_BESIDE[far]} {words[place]}", words[place + far]))
    questions = ", ".join(question for question, _ in asked)
    answers = ", ".join(f"{question} {answer}" for question, answer in asked)
    return [(f"The words are {' '.join(words)}.\n{questions}?", f"{answers}.")]


_MAKERS: dict[str, Callable[[Random], Turns]] = {
    "repeat": _repeat,
    "backwards": _backwards,
    "last": _last,
    "beside": _beside,
}
