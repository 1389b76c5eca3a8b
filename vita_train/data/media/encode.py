"""Media encoded anew in one form: images of a size, recordings as one channel of one rate."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from PIL import Image

from vita_train.data.media.audio import load_wave
from vita_train.data.media.image import open_image, to_square

ImageFormat = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True)
class ImageOutput:
    """How images are written. They are decoded as `open_image` does: upright, in sRGB, transparent
    parts white, the first frame of an animation."""

    size: int | None = 448
    """Pixels; None leaves sizes as they are."""
    side: Literal["longest", "shortest", "square"] = "longest"
    """What ``size`` is the length of; ``square`` makes both sides that long."""
    square: Literal["squash", "pad", "crop"] = "pad"
    """How an image becomes a square, as ``data.image.single_tile`` says it."""
    format: ImageFormat | Literal["keep"] = "jpeg"
    """``keep`` writes JPEG, PNG and WebP by the ending of their names, and others as JPEG."""
    quality: int = 95
    enlarge: bool = False
    """Enlarge images that are smaller; a square is as long as it can be without."""


@dataclass(frozen=True)
class AudioOutput:
    """How recordings are written: one channel, 16 bits."""

    rate: int = 16000
    format: Literal["wav", "flac"] = "wav"


@dataclass(frozen=True)
class Output:
    """How each kind is written."""

    image: ImageOutput = field(default_factory=ImageOutput)
    audio: AudioOutput = field(default_factory=AudioOutput)


_ENDINGS: dict[str, ImageFormat] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
}


def output_name(name: Path, kind: Literal["image", "audio"], output: Output) -> Path:
    """Return the name that a file gets: its own with the ending of what is written."""
    if kind == "audio":
        return name.with_suffix(f".{output.audio.format}")
    wanted = image_format(name, output.image)
    if _ENDINGS.get(name.suffix.lower()) == wanted:
        return name
    return name.with_suffix(".jpg" if wanted == "jpeg" else f".{wanted}")


def image_format(name: Path, output: ImageOutput) -> ImageFormat:
    """Return the format in which an image is written."""
    if output.format == "keep":
        return _ENDINGS.get(name.suffix.lower(), "jpeg")
    return output.format


def encode_image(path: Path, output: ImageOutput) -> bytes:
    """Decode an image and write it as ``output`` says.

    Raises:
        MediaError: it cannot be used, see `open_image`.
    """
    image = _sized(open_image(path), output)
    data = io.BytesIO()
    kind = image_format(path, output)
    options: dict[str, Any] = {} if kind == "png" else {"quality": output.quality}
    image.save(data, kind.upper(), **options)
    return data.getvalue()


def encode_audio(path: Path, output: AudioOutput, *, max_seconds: float) -> bytes:
    """Decode a recording of any container and write it as ``output`` says.

    Raises:
        MediaError: it cannot be used, see `load_wave`.
    """
    return _written(
        load_wave(path, output.rate, max_seconds=max_seconds, resampling="soxr"), output
    )


def cut_audio(
    path: Path, output: AudioOutput, cuts: Sequence[tuple[float, float]], max_seconds: float
) -> tuple[bytes, ...]:
    """Decode a long recording once and write pieces of it, from one second to another; empty bytes
    for one that lies outside of it.

    Raises:
        MediaError: it cannot be used, see `load_wave`.
    """
    wave = load_wave(path, output.rate, max_seconds=max_seconds, resampling="soxr")
    pieces = []
    for start, end in cuts:
        first, last = round(start * output.rate), round(end * output.rate)
        inside = 0 <= first < last <= len(wave) + output.rate // 100  # lengths are rounded
        pieces.append(_written(wave[first:last], output) if inside else b"")
    return tuple(pieces)


def _written(wave: np.ndarray, output: AudioOutput) -> bytes:
    samples = np.round(wave.clip(-1, 1) * 32767).astype(np.int16)
    data = io.BytesIO()
    soundfile.write(data, samples, output.rate, subtype="PCM_16", format=output.format.upper())
    return data.getvalue()


def _sized(image: Image.Image, output: ImageOutput) -> Image.Image:
    if output.size is None:
        return image
    if output.side == "square":
        most = min(image.size) if output.square == "crop" else max(image.size)
        side = output.size if output.enlarge else min(output.size, most)
        return to_square(image, side, output.square)
    length = (max if output.side == "longest" else min)(image.size)
    scale = output.size / length
    if scale == 1 or (scale > 1 and not output.enlarge):
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
