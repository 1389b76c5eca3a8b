"""What preparation must know of a media file, found by decoding it once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vita_train.data.media.audio import check_length, load_native, resampled_length
from vita_train.data.media.details import (
    Details,
    audio_details,
    image_details,
    video_details,
)
from vita_train.data.media.door import Kind, decoding
from vita_train.data.media.encode import Output, cut_audio, encode_audio, encode_image
from vita_train.data.media.image import count_tiles, open_image
from vita_train.data.media.video import count_video_tiles, probe_video, video_frame_indices
from vita_train.recipe.audio import AdapterSpec
from vita_train.recipe.data import DataSpec, Resampling

Span = tuple[float | None, float | None]
"""First second of a video, and the second at which it ends; None is the whole."""
WHOLE: Span = (None, None)


@dataclass(frozen=True)
class MediaFile:
    """A file to look at."""

    kind: Kind
    path: Path
    tiled: bool = True
    """False for images and videos of a set that is never tiled."""
    span: Span = WHOLE
    """Of a video, the seconds that are taken."""
    resampling: Resampling | None = None
    """Of a recording, what brings it to the recipe's rate; as the recipe says where not given."""
    cuts: tuple[tuple[float, float], ...] = ()
    """Of a long recording, first and last seconds of what is cut out of it."""


@dataclass(frozen=True)
class MeasureSettings:
    """What the measures of a file depend on."""

    data: DataSpec
    side: int
    """Pixels of a tile's side."""
    adapter: AdapterSpec
    with_waves: bool = False
    """Hand the samples of audio over, for features that are stored."""
    details: bool = False
    """Say more of a file than training needs."""
    preview: bool = False
    """Have a preview among the details."""
    output: Output | None = None
    """Encode images and audio anew as this says, and measure nothing."""


@dataclass(frozen=True)
class Measured:
    """What a file holds."""

    tiles: int = 0
    frame_indices: tuple[int, ...] = ()
    """Frames that are taken of a video."""
    samples: int = 0
    """Of audio, at the recipe's rate."""
    wave: np.ndarray | None = None
    """(samples of the file,) float32 at ``rate``, where it was asked for."""
    rate: int = 0
    """Of ``wave``: the file's own. It is resampled where torch is loaded anyway."""
    details: Details | None = None
    encoded: bytes = b""
    """The file as ``output`` says it is written."""
    pieces: tuple[bytes, ...] = ()
    """The cuts, so written; empty bytes for one that the recording does not reach to."""


def measure(file: MediaFile, settings: MeasureSettings) -> Measured:
    """Decode a file and say what it holds.

    Raises:
        MediaError: it cannot be used.
    """
    data, side = settings.data, settings.side
    with decoding(file.path, file.kind):
        if settings.output is not None and file.cuts:
            longest = data.audio.max_seconds
            return Measured(pieces=cut_audio(file.path, settings.output.audio, file.cuts, longest))
        if settings.output is not None:
            return Measured(encoded=_encoded(file, settings.output, data.audio.max_seconds))
        if file.kind == "image":
            image = open_image(file.path)
            return Measured(
                count_tiles(*image.size, data.image, side, tiled=file.tiled),
                details=image_details(file.path, image, preview=settings.preview)
                if settings.details
                else None,
            )
        if file.kind == "video":
            video = probe_video(file.path)
            indices = video_frame_indices(video, data.video, *file.span)
            return Measured(
                count_video_tiles(video, len(indices), data, side, tiled=file.tiled),
                tuple(indices),
                details=video_details(
                    file.path,
                    video.width,
                    video.height,
                    video.frames / video.rate,
                    preview=settings.preview,
                )
                if settings.details
                else None,
            )
        audio = data.audio
        wave, native, channels = load_native(
            file.path, max_seconds=audio.max_seconds, channel=audio.channel
        )
        by = file.resampling or audio.resampling
        samples = resampled_length(len(wave), native, audio.sample_rate, by)
        check_length(file.path, samples, audio, settings.adapter)
        return Measured(
            samples=samples,
            wave=wave if settings.with_waves else None,
            rate=native,
            details=audio_details(file.path, wave, native, channels, preview=settings.preview)
            if settings.details
            else None,
        )


def _encoded(file: MediaFile, output: Output, max_seconds: float) -> bytes:
    if file.kind == "image":
        return encode_image(file.path, output.image)
    return encode_audio(file.path, output.audio, max_seconds=max_seconds)
