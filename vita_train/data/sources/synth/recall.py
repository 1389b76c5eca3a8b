"""Dataset recall: words in a row, and for some of them the word before.

One relation alone, over long rows, with an answer in every three tokens: a model that has learnt
nothing yet learns it within some hundred steps, and all at once. Several relations together, or
rows so short that a guess is often right, are not learnt at all in that time. Finding a word again
and reading what stands beside it is what questions about scenes need
(``benchmarks/results/tiny_quality.md``).
"""

from __future__ import annotations

from random import Random

from vita_train.data.sources.synth.plan import Plan, Turns
from vita_train.data.sources.synth.scenes import COLOURS, NUMBERS, PLACES, SHAPES, SIZES
from vita_train.data.sources.synth.splits import DEV, rng_for, split_of

WORDS: tuple[str, ...] = (*COLOURS, *SHAPES, *SIZES, *PLACES, *NUMBERS[:6])
_MOST_ASKED = 8


def add_recall(plan: Plan) -> None:
    """Rows of words and what stands before them. Has no test: it serves what the other datasets
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
    words = rng.sample(WORDS, rng.randint(5, 12))
    asked = rng.sample(range(1, len(words)), rng.randint(3, min(_MOST_ASKED, len(words) - 1)))
    question = ", ".join(words[place] for place in asked)
    answer = ", ".join(f"{words[place]} {words[place - 1]}" for place in asked)
    return [(f"The words are {' '.join(words)}.\nwhat is before {question}?", f"{answer}.")]
