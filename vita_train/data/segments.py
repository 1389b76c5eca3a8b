"""Pieces of long recordings, cut out and written as files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.media.encode import AudioOutput, Output
from vita_train.data.media.measure import MeasureSettings, MediaFile
from vita_train.recipe.audio import SubsamplingAdapterSpec
from vita_train.recipe.data import AudioSpec, DataSpec

#: Longest recording that is decoded to be cut, in seconds.
LONGEST = 4 * 3600.0
_PER_FOLDER = 1000


@dataclass(frozen=True)
class Segment:
    """A piece of a recording, from one second to another."""

    path: Path
    start: float
    end: float


@dataclass(frozen=True)
class Cut:
    """What became of a segment."""

    name: str
    """File below the folder that was written to; empty where there is none."""
    reason: str = ""
    """Why there is none."""


def cut_segments(segments: Sequence[Segment], out: Path, *, rate: int = 16000) -> Iterator[Cut]:
    """Yield what became of each segment, in order. Recordings are decoded in a process of their
    own, once for all neighbouring segments of one.

    Args:
        segments: sorted by recording.
        out: folder for FLAC files of one channel, named by number: ids may hold anything.
        rate: samples a second that are written.
    """
    output = Output(audio=AudioOutput(rate, "flac"))
    data = DataSpec(audio=AudioSpec(max_seconds=LONGEST))
    settings = MeasureSettings(data, 448, SubsamplingAdapterSpec(), output=output)
    number = 0
    with Decoder(settings) as decoder:
        for path, group in groupby(segments, key=lambda segment: segment.path):
            cuts = tuple((segment.start, segment.end) for segment in group)
            try:
                pieces = decoder.measure(MediaFile("audio", path, cuts=cuts)).pieces
            except MediaError as error:
                yield from (Cut("", error.reason) for _ in cuts)
                continue
            for piece in pieces:
                if not piece:
                    yield Cut("", "outside its recording")
                    continue
                name = f"{number // _PER_FOLDER:05d}/{number:08d}.flac"
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(piece)
                number += 1
                yield Cut(name)
