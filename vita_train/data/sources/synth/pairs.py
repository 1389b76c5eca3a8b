"""Two images side by side, and questions that need both of them."""

from __future__ import annotations

from random import Random

from vita_train.data.sources.synth.questions import Question
from vita_train.data.sources.synth.scenes import COLOURS, SHAPES, Scene

#: Answer by whether the first and the second image have it.
_ANSWERS: dict[tuple[bool, ...], str] = {
    (True, False): "the first.",
    (False, True): "the second.",
    (True, True): "both.",
    (False, False): "neither.",
}


def pair_questions(first: Scene, second: Scene, rng: Random) -> list[Question]:
    """Draw questions about two images, in random order; the first one asks where something is."""
    asked = [_ask_where(first, second, rng)]
    if len(first.things) == len(second.things) == 1:
        one, other = first.things[0], second.things[0]
        asked += [
            Question(
                "same",
                "are the shapes the same colour?",
                "yes." if one.colour == other.colour else "no.",
            ),
            Question("named", "what colour is the shape in the first picture?", f"{one.colour}."),
            Question(
                "named", "what colour is the shape in the second picture?", f"{other.colour}."
            ),
            Question("named", "which shape is in the first picture?", f"{one.shape}."),
            Question("named", "which shape is in the second picture?", f"{other.shape}."),
        ]
    rng.shuffle(asked)
    return asked


def _ask_where(first: Scene, second: Scene, rng: Random) -> Question:
    """Ask which image has something; the four answers come about equally often where the scenes
    allow it."""
    options: dict[str, list[str]] = {}
    for name, words, suffix in (("shape", SHAPES, ""), ("colour", tuple(COLOURS), " shape")):
        for word in words:
            found = tuple(
                any(getattr(thing, name) == word for thing in scene.things)
                for scene in (first, second)
            )
            options.setdefault(_ANSWERS[found], []).append(word + suffix)
    answer = rng.choice(sorted(options))
    return Question("where", f"which picture has a {rng.choice(options[answer])}?", answer)
