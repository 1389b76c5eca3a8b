"""Dataset lookup: scenes of several things in words, and one attribute of a thing after another.

Each answer repeats what it was asked before it says what is looked up (``colour star blue``): the
key stands beside the answer, and one reply holds many of them. Questions about scenes ask for the
same one at a time and from further away, which is learnt sooner after this
(``benchmarks/results/tiny_quality.md``).
"""

from __future__ import annotations

from random import Random

from vita_train.data.sources.synth.plan import Plan, Turns
from vita_train.data.sources.synth.scenes import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing
from vita_train.data.sources.synth.splits import Splits, rng_for

#: Every attribute of a thing, and those that tell it from the others of its scene.
_ATTRIBUTES = ("colour", "shape", "size", "place")
_KEYS = ("colour", "shape", "place")
_ASKED = (4, 8)


def add_lookup(plan: Plan) -> None:
    """Scenes of two to five things and what is looked up in them. Has no test: it serves what the
    other datasets measure."""
    for name, split, number in plan.slices("lookup", ()):
        rng = rng_for(plan.splits.seed, "lookup", name)
        for _ in range(number):
            plan.add("lookup", name, draw_lookup(rng, plan.splits, split))


def draw_lookup(rng: Random, splits: Splits, split: str) -> Turns:
    """Draw one exercise about a scene of a split."""
    scene = _scene(rng)
    while splits.of_scene(scene.caption) != split:
        scene = _scene(rng)
    asked = []
    for _ in range(rng.randint(*_ASKED)):
        thing, sought = rng.choice(scene.things), rng.choice(_ATTRIBUTES)
        key = rng.choice([name for name in _KEYS if name != sought])
        asked.append((f"{sought} {getattr(thing, key)}", getattr(thing, sought)))
    question = ", ".join(text for text, _ in asked)
    answer = ", ".join(f"{text} {found}" for text, found in asked)
    return [(f"{scene.caption}\n{question}?", f"{answer}.")]


def _scene(rng: Random) -> Scene:
    """A scene without two things of the same colour, shape or place: each of these names one."""
    number = rng.randint(2, len(PLACES))
    places = sorted(rng.sample(list(PLACES), number), key=list(PLACES).index)
    colours, shapes = rng.sample(list(COLOURS), number), rng.sample(SHAPES, number)
    return Scene(
        tuple(
            Thing(rng.choice(SIZES), *named) for named in zip(colours, shapes, places, strict=True)
        )
    )
