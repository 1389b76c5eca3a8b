"""Scenes and videos as pixels: 64 x 64 images on grey, drawn four times too large and averaged
down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from random import Random

from PIL import Image, ImageDraw

from vita_train.data.sources.synth.scenes import COLOURS, Scene, Thing

SIZE = 64
_OVERSAMPLE = 4
_RADIUS = {"big": 14.0, "small": 9.0}
_CENTRE = {
    "top": (32, 16),
    "left": (16, 32),
    "middle": (32, 32),
    "right": (48, 32),
    "bottom": (32, 48),
}
Point = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """Chance details of one image that its caption does not mention."""

    background: int
    """Grey level."""
    shifts: tuple[Point, ...]
    """Displacement of each thing, pixels."""
    stretches: tuple[float, ...]
    """Factor on each radius."""
    turns: tuple[float, ...]
    """Rotation of each thing, radians."""

    @classmethod
    def draw(cls, rng: Random, things: int) -> Look:
        """Draw the details of an image of so many things."""
        return cls(
            background=rng.randint(112, 144),
            shifts=tuple((rng.uniform(-1, 1), rng.uniform(-1, 1)) for _ in range(things)),
            stretches=tuple(rng.uniform(0.92, 1.04) for _ in range(things)),
            turns=tuple(rng.uniform(-0.15, 0.15) for _ in range(things)),
        )


def paint_scene(scene: Scene, look: Look) -> Image.Image:
    """Draw a scene as an RGB image of 64 x 64."""
    places = [thing.place for thing in scene.things]
    centres = [_centre_of(thing, places) for thing in scene.things]
    return paint(list(scene.things), centres, look)


def paint(things: list[Thing], centres: list[Point], look: Look) -> Image.Image:
    """Draw things at given centres (pixels)."""
    canvas = Image.new("RGB", (SIZE * _OVERSAMPLE, SIZE * _OVERSAMPLE), (look.background,) * 3)
    pen = ImageDraw.Draw(canvas)
    for thing, centre, shift, stretch, turn in zip(
        things, centres, look.shifts, look.stretches, look.turns, strict=True
    ):
        x, y = (_OVERSAMPLE * (base + delta) for base, delta in zip(centre, shift, strict=True))
        radius = _OVERSAMPLE * _RADIUS[thing.size] * stretch
        _paint_shape(
            pen, thing.shape, (x, y), radius, turn, COLOURS[thing.colour], (look.background,) * 3
        )
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def encode_jpeg(image: Image.Image) -> bytes:
    """Return the bytes of a JPEG without colour subsampling, which would smear the small shapes."""
    data = BytesIO()
    image.save(data, "JPEG", quality=92, subsampling=0)
    return data.getvalue()


def _centre_of(thing: Thing, places: list[str]) -> Point:
    """Centre of a thing; beside a thing at the top (bottom), left and right sit in the lower
    (upper) half."""
    x, y = _CENTRE[thing.place]
    if len(places) == 3 and thing.place in ("left", "right"):
        y = 47 if "top" in places else 17
    return x, y


def _paint_shape(
    pen: ImageDraw.ImageDraw,
    shape: str,
    centre: Point,
    radius: float,
    turn: float,
    colour: tuple[int, int, int],
    background: tuple[int, int, int],
) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, fill=colour)
        hole = 0.55 * radius
        pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=background)
    else:
        pen.polygon(_outline(shape, centre, radius, turn), fill=colour)


def _outline(shape: str, centre: Point, radius: float, turn: float) -> list[Point]:
    """Corners of a straight-edged shape."""
    if shape == "square":
        corners = [(45.0 + 90 * k, 1.2) for k in range(4)]
    elif shape == "triangle":
        corners = [(-90.0 + 120 * k, 1.15) for k in range(3)]
    elif shape == "star":
        corners = [(-90.0 + 36 * k, 1.1 if k % 2 == 0 else 0.45) for k in range(10)]
    else:
        arm, reach = 0.3, 1.05
        plain = [
            (arm, reach),
            (arm, arm),
            (reach, arm),
            (reach, -arm),
            (arm, -arm),
            (arm, -reach),
            (-arm, -reach),
            (-arm, -arm),
            (-reach, -arm),
            (-reach, arm),
            (-arm, arm),
            (-arm, reach),
        ]
        corners = [(math.degrees(math.atan2(y, x)), math.hypot(x, y)) for x, y in plain]
    return [
        (
            centre[0] + scale * radius * math.cos(math.radians(angle) + turn),
            centre[1] + scale * radius * math.sin(math.radians(angle) + turn),
        )
        for angle, scale in corners
    ]
