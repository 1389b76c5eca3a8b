"""What people want to know of a media file beside what training needs: its size, length and rate,
its likeness to others, and a preview. Computed where the file is decoded."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from vita_train.data.media.container import open_container
from vita_train.data.media.door import Kind, find_file

#: Longer side of a preview, pixels.
_PREVIEW_SIDE = 240
#: Lines of a cell that a likeness is taken from.
_FINE = 32
#: Seconds of a preview.
_PREVIEW_SECONDS = 15


@dataclass(frozen=True)
class Details:
    """Facts of a file that was decoded."""

    sha256: str
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    rate: int = 0
    """Samples a second, as the file has them."""
    channels: int = 0
    dhash: int = 0
    """Of an image, see `dhash`."""
    preview: bytes = b""
    """A small JPEG or WAV, encoded anew; empty where none was asked for."""


def image_details(path: Path, image: Image.Image, *, preview: bool) -> Details:
    """Return the facts of an image that was decoded."""
    data = b""
    if preview:
        small = image.copy()
        small.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
        data = _jpeg(small)
    return Details(_sha256(path, "image"), *image.size, dhash=dhash(image), preview=data)


def audio_details(
    path: Path, wave: np.ndarray, rate: int, channels: int, *, preview: bool
) -> Details:
    """Return the facts of a recording of so many channels; ``wave`` is (samples,) at ``rate``."""
    data = io.BytesIO()
    if preview:
        clip = np.clip(wave[: _PREVIEW_SECONDS * rate], -1, 1)
        soundfile.write(data, clip, rate, format="WAV", subtype="PCM_16")
    return Details(
        _sha256(path, "audio"),
        seconds=len(wave) / rate,
        rate=rate,
        channels=channels,
        preview=data.getvalue(),
    )


def video_details(path: Path, width: int, height: int, seconds: float, *, preview: bool) -> Details:
    """Return the facts of a video that was decoded."""
    data = b""
    if preview:
        with open_container(path) as container:
            frame = next(container.decode(container.streams.video[0]))
        small = frame.to_image()
        small.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
        data = _jpeg(small)
    return Details(_sha256(path, "video"), width, height, seconds, preview=data)


def dhash(image: Image.Image) -> int:
    """Return 64 bits that hardly change when an image is scaled or encoded again: whether each of
    8 x 8 cells is brighter than its right neighbour (difference hash)."""
    # Whole lines are left out first: twice as fast as means of all, and hardly less exact, also of
    # halftones and text, which columns left out as well would spoil
    lines = image.height // max(1, image.height // (8 * _FINE))
    grey = image.resize((image.width, lines), Image.Resampling.NEAREST).convert("L")
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _jpeg(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=85)
    return data.getvalue()


def _sha256(path: Path, kind: Kind) -> str:
    with find_file(path, kind).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
