"""Questions about scenes, each with its one right answer of a word or two.

The same wording serves questions about images, about scenes told in text, and spoken questions, so
that what is learnt in one form carries over to the others. Within a kind, answers are drawn before
questions where that is needed to keep any constant answer from scoring well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from vita_train.data.sources.synth.scenes import COLOURS, NUMBERS, PLACES, SHAPES, Scene, Thing

KINDS: dict[str, float] = {
    "colour": 0.25,
    "shape": 0.2,
    "size": 0.15,
    "place": 0.15,
    "count": 0.12,
    "exists": 0.13,
}


@dataclass(frozen=True)
class Question:
    """A question and its answer."""

    kind: str
    text: str
    answer: str


def ask(scene: Scene, rng: Random, *, about: Thing | None = None) -> Question:
    """Draw one question about a scene.

    Args:
        scene: what is asked about.
        rng: source of chance.
        about: the thing whose recognition the question must need; none draws one.
    """
    thing = about or rng.choice(scene.things)
    while True:
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        question = _ASKERS[kind](scene, thing, rng)
        if question:
            return question


def ask_several(scene: Scene, rng: Random, number: int) -> list[Question]:
    """Draw up to ``number`` different questions about one scene."""
    drawn = [ask(scene, rng) for _ in range(3 * number)]
    return list({question.text: question for question in drawn}.values())[:number]


def plural(shape: str) -> str:
    """The plural of a shape word."""
    return shape + ("es" if shape.endswith("s") else "s")


def _unique(scene: Scene, thing: Thing, name: str) -> bool:
    """Whether no other thing shares this attribute."""
    return sum(getattr(other, name) == getattr(thing, name) for other in scene.things) == 1


def _references(scene: Scene, thing: Thing, hidden: str) -> list[str]:
    """Phrases that single out the thing without naming the hidden attribute."""
    phrases = {
        "shape": thing.shape,
        "colour": f"{thing.colour} shape",
        "place": f"shape {PLACES[thing.place]}",
    }
    return [
        phrase for name, phrase in phrases.items() if name != hidden and _unique(scene, thing, name)
    ]


def _ask_colour(scene: Scene, thing: Thing, rng: Random) -> Question | None:
    reference = rng.choice(_references(scene, thing, "colour"))
    return Question("colour", f"what colour is the {reference}?", f"{thing.colour}.")


def _ask_shape(scene: Scene, thing: Thing, rng: Random) -> Question | None:
    phrases = {"colour": thing.colour, "place": PLACES[thing.place]}
    clear = [phrase for name, phrase in phrases.items() if _unique(scene, thing, name)]
    return Question("shape", f"which shape is {rng.choice(clear)}?", f"{thing.shape}.")


def _ask_size(scene: Scene, thing: Thing, rng: Random) -> Question | None:
    reference = rng.choice(_references(scene, thing, "size"))
    return Question("size", f"is the {reference} big or small?", f"{thing.size}.")


def _ask_place(scene: Scene, thing: Thing, rng: Random) -> Question | None:
    clear = _references(scene, thing, "place")
    if not clear:
        return None
    return Question("place", f"where is the {rng.choice(clear)}?", f"{PLACES[thing.place]}.")


def _ask_count(scene: Scene, thing: Thing, rng: Random) -> Question | None:
    options: dict[str, Callable[[Thing], bool]] = {"shapes": lambda other: True}
    options[plural(thing.shape)] = lambda other: other.shape == thing.shape
    absent = [shape for shape in SHAPES if all(other.shape != shape for other in scene.things)]
    options[plural(rng.choice(absent))] = lambda other: False
    what = rng.choice(list(options))
    number = NUMBERS[sum(options[what](other) for other in scene.things)]
    return Question("count", f"how many {what} are there?", f"{number}.")


def _ask_exists(scene: Scene, thing: Thing, rng: Random) -> Question | None:
    if rng.random() < 0.5:
        what, answer = rng.choice((thing.shape, f"{thing.colour} shape")), "yes."
    else:
        shapes, colours = (
            {other.shape for other in scene.things},
            {other.colour for other in scene.things},
        )
        absent = rng.choice(
            (
                [shape for shape in SHAPES if shape not in shapes],
                [f"{colour} shape" for colour in COLOURS if colour not in colours],
            )
        )
        what, answer = rng.choice(absent), "no."
    return Question("exists", f"is there a {what}?", answer)


_ASKERS: dict[str, Callable[[Scene, Thing, Random], Question | None]] = {
    "colour": _ask_colour,
    "shape": _ask_shape,
    "size": _ask_size,
    "place": _ask_place,
    "count": _ask_count,
    "exists": _ask_exists,
}


def all_questions() -> list[str]:
    """Every question text that ``ask`` can produce, sorted."""
    coloured = [f"{colour} shape" for colour in COLOURS]
    placed = [f"shape {phrase}" for phrase in PLACES.values()]
    texts = {f"what colour is the {what}?" for what in [*SHAPES, *placed]}
    texts |= {f"which shape is {what}?" for what in [*COLOURS, *PLACES.values()]}
    texts |= {f"is the {what} big or small?" for what in [*SHAPES, *coloured, *placed]}
    texts |= {f"where is the {what}?" for what in [*SHAPES, *coloured]}
    texts |= {f"how many {what} are there?" for what in [*map(plural, SHAPES), "shapes"]}
    texts |= {f"is there a {what}?" for what in [*SHAPES, *coloured]}
    return sorted(texts)
