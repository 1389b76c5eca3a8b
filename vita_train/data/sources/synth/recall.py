"""Dataset recall: words in a row, and what is asked of them: which stand beside others, which are there, how often.

Language models that learn from little text stay on a plateau where they name something of a scene, but not what was
asked for: finding a word again and reading what stands beside it pay off only together. So do seeing that a word is
missing and saying so. Here each pays by itself, and nearly every supervised token needs it. Trained on this first, a
model finds the other in a few hundred steps (``benchmarks/results/tiny_quality.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from vita_train.data.sources.synth.plan import Plan, Turns
from vita_train.data.sources.synth.scenes import COLOURS, NUMBERS, PLACES, SHAPES, SIZES
from vita_train.data.sources.synth.splits import DEV, rng_for, split_of

WORDS: tuple[str, ...] = (*COLOURS, *SHAPES, *SIZES, *PLACES, *NUMBERS[:6])

#: How far from the named word, and how one asks for it.
_BESIDE: dict[int, str] = {1: "after", -1: "before", -2: "second before"}
_KINDS: dict[str, float] = {"repeat": 0.05, "last": 0.1, "beside": 0.25, "where": 0.2, "among": 0.25, "count": 0.15}


def add_recall(plan: Plan) -> None:
    """Rows of words and what is to be said of them. Has no test: it serves what the other datasets measure."""
    for name, split, number in plan.slices("recall", ()):
        rng = rng_for(plan.splits.seed, "recall", name)
        for _ in range(number):
            turns = draw_recall(rng)
            while (split_of(plan.splits.seed, _words(turns)) == DEV) != (split == DEV):
                turns = draw_recall(rng)
            plan.add("recall", name, turns)


def _words(turns: Turns) -> str:
    """Return the words that are asked about: with them, all that may be asked of them belongs to one split."""
    return turns[0][0].partition("\n")[0]


def draw_recall(rng: Random) -> Turns:
    """Draw one exercise."""
    return _MAKERS[rng.choices(list(_KINDS), list(_KINDS.values()))[0]](rng)


def _repeat(rng: Random) -> Turns:
    words = " ".join(rng.sample(WORDS, rng.randint(4, 16)))
    return [(f"Repeat these words: {words}.", f"they are {words}.")]


def _last(rng: Random) -> Turns:
    rows = [rng.sample(WORDS, rng.randint(2, 5)) for _ in range(rng.randint(1, 3))]
    return [(f"Which word is last: {' '.join(words)}?", f"{words[-1]}.") for words in rows]


def _beside(rng: Random) -> Turns:
    words, asked = rng.sample(WORDS, rng.randint(4, 7)), []
    for _ in range(rng.randint(2, 4)):
        far = rng.choice(list(_BESIDE))
        place = rng.randrange(max(0, -far), min(len(words), len(words) - far))
        asked.append((f"{_BESIDE[far]} {words[place]}", words[place + far]))
    questions = ", ".join(question for question, _ in asked)
    answers = ", ".join(f"{question} {answer}" for question, answer in asked)
    return [(f"The words are {' '.join(words)}.\n{questions}?", f"{answers}.")]


def _where(rng: Random) -> Turns:
    placed = dict(zip(rng.sample(WORDS, rng.randint(2, 4)), rng.sample(list(PLACES.values()), 4), strict=False))
    listed = ", ".join(f"{word} {phrase}" for word, phrase in placed.items())
    asked = rng.sample(list(placed), len(placed))
    return _rounds(f"The words are {listed}.", [(f"where is {word}?", f"{placed[word]}.") for word in asked])


def _among(rng: Random) -> Turns:
    chosen = rng.sample(WORDS, rng.randint(4, 10))
    words, absent = chosen[: len(chosen) // 2], chosen[len(chosen) // 2:]
    asked = [(rng.choice(words), "yes") if rng.random() < 0.5 else (rng.choice(absent), "no")
             for _ in range(rng.randint(3, 5))]
    return _rounds(f"The words are {' '.join(words)}.", [(f"is there {word}?", f"{said}.") for word, said in asked])


def _count(rng: Random) -> Turns:
    chosen = rng.sample(WORDS, rng.randint(2, 4))
    words = [rng.choice(chosen) for _ in range(rng.randint(2, 5))]
    asked = rng.sample(chosen, min(3, len(chosen)))
    return _rounds(f"The words are {' '.join(words)}.",
                   [(f"how many {word}?", f"{NUMBERS[words.count(word)]}.") for word in asked])


def _rounds(head: str, asked: Sequence[tuple[str, str]]) -> Turns:
    """Ask one thing after the other about the same words."""
    return [(f"{head}\n{question}" if place == 0 else question, said) for place, (question, said) in enumerate(asked)]


_MAKERS: dict[str, Callable[[Random], Turns]] = {
    "repeat": _repeat, "last": _last, "beside": _beside, "where": _where, "among": _among, "count": _count,
}
