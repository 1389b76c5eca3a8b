"""The world model: coloured shapes of two sizes at five places, and the sentence that says it all.

Colours come in orbits under the exchange of RGB channels (red, green, blue; yellow, cyan, pink;
black; white), so a image whose channels are exchanged is again an image of this world with other
colour words.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

#: Colour word to RGB. The background is grey, so black and white stand out as well.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 30),
    "green": (30, 225, 30),
    "blue": (30, 30, 225),
    "yellow": (225, 225, 30),
    "cyan": (30, 225, 225),
    "pink": (225, 30, 225),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES: tuple[str, ...] = ("big", "small")

#: Place to the words that name it, in the order in which a caption lists things.
PLACES: dict[str, str] = {
    "top": "at the top",
    "left": "on the left",
    "middle": "in the middle",
    "right": "on the right",
    "bottom": "at the bottom",
}
NUMBERS: tuple[str, ...] = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)

#: Places of the things in a scene, by their number.
LAYOUTS: dict[int, tuple[tuple[str, ...], ...]] = {
    1: tuple((place,) for place in PLACES),
    2: (("left", "right"), ("top", "bottom")),
    3: (("top", "left", "right"), ("left", "right", "bottom")),
}
_COUNT_WEIGHTS = {1: 0.4, 2: 0.45, 3: 0.15}

Pair = tuple[str, str]
"""A colour and a shape."""


@dataclass(frozen=True)
class Thing:
    """One coloured shape."""

    size: str
    colour: str
    shape: str
    place: str

    @property
    def pair(self) -> Pair:
        """Colour and shape, the combination that is held out."""
        return self.colour, self.shape

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} {PLACES[self.place]}"


@dataclass(frozen=True)
class Scene:
    """One to three things, no two of the same colour and shape."""

    things: tuple[Thing, ...]

    @property
    def pairs(self) -> frozenset[Pair]:
        """Combinations of colour and shape that occur."""
        return frozenset(thing.pair for thing in self.things)

    @property
    def caption(self) -> str:
        """The canonical sentence, naming size, colour, shape and place of everything."""
        return join_words([str(thing) for thing in self.things]) + "."


ALL_PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)


def join_words(parts: list[str]) -> str:
    """Join phrases as a list is spoken: ``a``, ``a and b``, ``a, b and c``."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def draw_scene(
    rng: Random, pairs: tuple[Pair, ...], *, first: Pair | None = None, count: int | None = None
) -> Scene:
    """Draw a scene.

    Args:
        rng: source of chance.
        pairs: combinations that may occur.
        first: a combination that must occur (at a random place).
        count: number of things; none draws one to three.
    """
    number = count or rng.choices(list(_COUNT_WEIGHTS), list(_COUNT_WEIGHTS.values()))[0]
    layout = rng.choice(LAYOUTS[number])
    chosen = [first] if first else []
    chosen += rng.sample([pair for pair in pairs if pair != first], number - len(chosen))
    rng.shuffle(chosen)
    return Scene(
        tuple(
            Thing(rng.choice(SIZES), *pair, place)
            for pair, place in zip(chosen, layout, strict=True)
        )
    )


def held_out_pairs(rng: Random) -> tuple[Pair, ...]:
    """Choose the combinations kept out of every training image: each colour once, shapes as evenly
    as possible."""
    colours, shapes = list(COLOURS), list(SHAPES)
    rng.shuffle(colours)
    rng.shuffle(shapes)
    return tuple(
        sorted((colour, shapes[place % len(shapes)]) for place, colour in enumerate(colours))
    )
