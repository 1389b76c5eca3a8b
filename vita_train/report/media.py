"""Images and sounds as data URIs, so that the page needs no other file and no network."""

from __future__ import annotations

import base64
import io

import numpy as np
import soundfile
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from vita_train.report.charts import waveform

#: Longer side of an image in the report, pixels.
MAX_SIDE = 320
#: Seconds of a recording that are kept.
MAX_SECONDS = 20.0


def image_uri(data: bytes) -> str | None:
    """Return an image as a small PNG or JPEG data URI, or None if the bytes are not an image.

    The image is always encoded anew: nothing but pixels reaches the page.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    small = max(image.size) <= 96
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    out = io.BytesIO()
    # Tiny images are drawn enlarged, where JPEG blocks would show.
    image.save(out, "PNG" if small else "JPEG", **({} if small else {"quality": 88}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def audio_clip(data: bytes) -> tuple[str, Markup, float] | None:
    """Return a recording as (WAV data URI, drawn waveform, seconds), or None if the bytes are not
    audio."""
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError):
        return None
    mono = samples.mean(axis=1)[: int(MAX_SECONDS * rate)]
    if mono.size == 0:
        return None
    out = io.BytesIO()
    soundfile.write(out, np.clip(mono, -1.0, 1.0), rate, format="WAV", subtype="PCM_16")
    uri = f"data:audio/wav;base64,{base64.b64encode(out.getvalue()).decode()}"
    return uri, waveform(mono), mono.size / rate
