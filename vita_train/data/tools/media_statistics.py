"""Sizes, durations and shapes of the media that records name."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from vita_train.data.check.examine import plain_settings
from vita_train.data.media.apart import Decoder
from vita_train.data.media.details import Details
from vita_train.data.media.door import Kind
from vita_train.data.sources.reading import Reject, Row
from vita_train.data.sources.source import RecordSource
from vita_train.data.tools.decoded import Fault, decoded

#: Edges of the public duration histogram, in seconds.
DURATION_EDGES = (0, 1, 5, 10, 15, 20, 25, 30, 60, 200)
#: Edges of the shorter side, in pixels: the tile of the released tower and its multiples.
SIDE_EDGES = (0, 112, 224, 336, 448, 672, 896, 1344, 1792, 2688)
#: Edges of file sizes, in megabytes (10^6 bytes).
SIZE_EDGES = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)
#: Longer sides of an image are a mistake more often than a picture (the public tool's bound).
MOST_RATIO = 12.0


@dataclass(frozen=True)
class Statistics:
    """A measure over all files of a kind."""

    files: int
    total: float
    lowest: float | None
    highest: float | None
    histogram: dict[str, int]
    """Files by interval, the lower edge included."""
    faults: list[Fault]
    """Files and records that have no measure."""


def images_per_record(rows: Iterable[Row | Reject]) -> dict[str, Any]:
    """Return how many records have how many images."""
    counts: Counter[int] = Counter()
    rejected = 0
    for row in rows:
        if isinstance(row, Reject):
            rejected += 1
        else:
            counts[len(row.images)] += 1
    return {
        "records": counts.total(),
        "rejected": rejected,
        "images": sum(number * records for number, records in counts.items()),
        "histogram": {str(number): counts[number] for number in sorted(counts)},
    }


def durations(source: RecordSource) -> Statistics:
    """Return the seconds of all recordings in the public tool's bins.

    Raises:
        DataError: the record file cannot be read, or a media root is missing or empty.
    """
    return _statistics(source, "audio", lambda path, facts: facts.seconds, DURATION_EDGES)


def resolutions(source: RecordSource, kind: Kind = "image") -> Statistics:
    """Return the shorter sides, in pixels, of all images or videos.

    Raises:
        DataError: see `durations`.
    """
    return _statistics(source, kind, lambda path, facts: min(facts.width, facts.height), SIDE_EDGES)


def video_sizes(source: RecordSource) -> Statistics:
    """Return the sizes of all video files, in megabytes.

    Raises:
        DataError: see `durations`.
    """
    return _statistics(source, "video", lambda path, facts: path.stat().st_size / 1e6, SIZE_EDGES)


def long_images(source: RecordSource, most: float = MOST_RATIO) -> Iterator[Fault | None]:
    """Yield for each image the fault of being more than ``most`` times as long as wide, or as wide
    as long; that it cannot be read; or None.

    Raises:
        DataError: see `durations`.
    """
    for row, path, found in _files(source, "image"):
        if isinstance(found, Fault):
            yield found
            continue
        long = max(found.width, found.height) > most * min(found.width, found.height)
        detail = f"{found.width} x {found.height} pixels"
        yield Fault(row.row, row.id, str(path), "long image", detail) if long else None


def _statistics(
    source: RecordSource,
    kind: Kind,
    measure: Callable[[Path, Details], float],
    edges: Sequence[int],
) -> Statistics:
    values, faults = [], []
    for _, path, found in _files(source, kind):
        if isinstance(found, Fault):
            faults.append(found)
        else:
            values.append(measure(path, found))
    counts = Counter(bisect_right(edges, value) - 1 for value in values)
    names = [f"{low}-{high}" for low, high in pairwise(edges)] + [f"{edges[-1]}-"]
    return Statistics(
        len(values),
        round(sum(values), 3),
        min(values, default=None),
        max(values, default=None),
        {name: counts[place] for place, name in enumerate(names)},
        faults,
    )


def _files(
    source: RecordSource, kind: Kind
) -> Iterator[tuple[Row | Reject, Path, Details | Fault]]:
    with Decoder(plain_settings()) as decoder:
        for row in source.checked_rows():
            for path, found in decoded(decoder, row, source.roots, kind):
                yield row, path, found
