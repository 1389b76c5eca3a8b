"""Videos of four frames in which one thing moves, changes its colour, or stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from random import Random

import av
import numpy as np
from PIL import Image

from vita_train.data.sources.synth.images import Look, Point, paint
from vita_train.data.sources.synth.questions import Question
from vita_train.data.sources.synth.scenes import Pair, Scene, Thing

FRAMES = 4
_LOW, _HIGH = 16.0, 48.0

#: Direction to the places a moving thing passes.
PATHS: dict[str, tuple[str, str, str, str]] = {
    "left": ("right", "middle", "middle", "left"),
    "right": ("left", "middle", "middle", "right"),
    "up": ("bottom", "middle", "middle", "top"),
    "down": ("top", "middle", "middle", "bottom"),
}


@dataclass(frozen=True)
class Video:
    """What happens to one thing in four frames."""

    thing: Thing
    """At the start."""
    direction: str | None
    """Where it moves to; none when it stays in the middle."""
    last_colour: str
    """Colour of the last two frames."""

    @property
    def frames(self) -> list[Scene]:
        """The four frames as scenes."""
        places = PATHS[self.direction] if self.direction else ("middle",) * FRAMES
        colours = (self.thing.colour,) * 2 + (self.last_colour,) * 2
        return [
            Scene((replace(self.thing, place=place, colour=colour),))
            for place, colour in zip(places, colours, strict=True)
        ]

    @property
    def text(self) -> str:
        """The frames in words, one caption a line."""
        return "\n".join(frame.caption for frame in self.frames)

    @property
    def pairs(self) -> frozenset[Pair]:
        """Combinations of colour and shape that occur."""
        return frozenset().union(*(frame.pairs for frame in self.frames))


def draw_video(rng: Random, pairs: tuple[Pair, ...]) -> Video:
    """Draw a video: two thirds move, the others change colour or stay as they are."""
    colour, shape = rng.choice(pairs)
    size = rng.choice(("big", "small"))
    action = rng.choices(("move", "change", "stay"), (0.6, 0.25, 0.15))[0]
    if action == "move":
        direction = rng.choice(list(PATHS))
        return Video(Thing(size, colour, shape, PATHS[direction][0]), direction, colour)
    others = [other for other, its_shape in pairs if its_shape == shape and other != colour]
    last = rng.choice(others) if action == "change" and others else colour
    return Video(Thing(size, colour, shape, "middle"), None, last)


def video_questions(video: Video, rng: Random) -> list[Question]:
    """All questions about a video, in random order."""
    shape, changed = video.thing.shape, video.last_colour != video.thing.colour
    asked = [
        Question("moves", f"does the {shape} move?", _yes(video.direction is not None)),
        Question("changes", f"does the {shape} change colour?", _yes(changed)),
    ]
    if video.direction:
        asked += [
            Question("direction", f"which way does the {shape} move?", video.direction + ".")
        ] * 2
    else:
        asked.append(
            Question("colour", f"what colour is the {shape} at the end?", video.last_colour + ".")
        )
        asked.append(
            Question(
                "colour", f"what colour is the {shape} at the start?", video.thing.colour + "."
            )
        )
    rng.shuffle(asked)
    return list(dict.fromkeys(asked))


def encode_video(video: Video, look: Look) -> bytes:
    """Return the bytes of a video as H.264 in MP4, one frame a second."""
    images = [
        paint([frame.things[0]], [centre], look)
        for frame, centre in zip(video.frames, _centres(video.direction), strict=True)
    ]
    # One thread and bit-exact flags: otherwise the bytes name the encoder's build and depend on the
    # machine's cores.
    data = BytesIO()
    with av.open(data, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=1)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, 1)
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "12", "preset": "veryfast", "flags": "+bitexact"}
        for place, image in enumerate(images):
            container.mux(stream.encode(_frame(image, place)))
        container.mux(stream.encode())
    return data.getvalue()


def _frame(image: Image.Image, place: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
    frame.pts = place
    return frame


def _centres(direction: str | None) -> list[Point]:
    middle = (_LOW + _HIGH) / 2
    if direction is None:
        return [(middle, middle)] * FRAMES
    steps = [_LOW + (_HIGH - _LOW) * k / (FRAMES - 1) for k in range(FRAMES)]
    if direction in ("left", "up"):
        steps.reverse()
    return [(step, middle) if direction in ("left", "right") else (middle, step) for step in steps]


def _yes(true: bool) -> str:
    return "yes." if true else "no."
