"""Splits of a corpus that comes with none: records are dealt out by the hash of what they share.

Records with an image (a video, a speaker) in common form a group, and a group is never divided, so
that nothing of training is measured. A group's place depends on the hash of its key alone: the
order of the file, other records and the number of processes do not move it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator

from vita_train.data.sources.reading import Reject, Row
from vita_train.errors import DataError
from vita_train.recipe.base import Strict

TRAIN = "train"
_SPACE = 1 << 64


_Number = Annotated[int, Field(strict=True, ge=1, le=10**12)]
_Share = Annotated[float, Field(strict=True, gt=0, lt=1)]


class SplitOff(Strict):
    """What is split off the train records of a dataset."""

    parts: dict[str, _Number | _Share] = Field(min_length=1)
    """Split to its share of the groups (0.05) or the least number of its records (500)."""
    by: Literal["id", "image", "speaker"] = "id"
    """What a group has in common. ``image`` counts videos too, and goes by the id where there is
    neither."""
    pattern: str = r"^([^/]+)/"
    """Of speakers: a regular expression, whose first group is the speaker in the name of the audio
    file; by default the first folder."""
    seed: int = Field(default=0, ge=0, le=2**32)
    """Another seed, another choice."""

    @field_validator("parts")
    @classmethod
    def _sizes(cls, parts: dict[str, int | float]) -> dict[str, int | float]:
        if TRAIN in parts:
            raise ValueError("train is what is left; name the other splits")
        if sum(size for size in parts.values() if isinstance(size, float)) >= 1:
            raise ValueError("the shares leave nothing for train")
        return parts

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"pattern is no regular expression: {error}") from None
        if not groups:
            raise ValueError("pattern needs a group, (...), that is the speaker")
        return pattern


@dataclass(frozen=True)
class Partition:
    """Which split each record belongs to."""

    spec: SplitOff
    bounds: tuple[tuple[str, int], ...]
    """Split and the hash below which its groups lie, in rising order."""
    joined: dict[int, int]
    """Key to a smaller key of its group, of keys that stand together in a record."""

    def of(self, row: Row | Reject) -> str:
        """Return the split of a row; rejects belong to train, whose ledger counts them."""
        if isinstance(row, Reject):
            return TRAIN
        keys = keys_of(row, self.spec)
        if isinstance(keys, Reject):
            return TRAIN
        return self.at(_find(self.joined, keys[0]))

    def at(self, place: int) -> str:
        """Return the split of a group by its smallest key."""
        return next((name for name, bound in self.bounds if place < bound), TRAIN)


def keys_of(row: Row, spec: SplitOff) -> list[int] | Reject:
    """Return the hashes of what a record shares with others; a reject where there is no speaker."""
    if spec.by == "speaker":
        names = []
        for ref in row.audios:
            found = re.search(spec.pattern, ref.name)
            if found is None or not found.group(1):
                return Reject(
                    row.row,
                    "no speaker",
                    f"split_off.pattern finds no speaker in {ref.name!r}",
                    row.id,
                )
            names.append(found.group(1))
    elif spec.by == "image":
        names = [str(ref) for ref in (*row.images, *row.videos)]
    else:
        names = []
    if not names:
        names = [f"id {row.id}"]
    return [_hash(spec, name) for name in names]


def partition(spec: SplitOff, rows: Callable[[], Iterator[Row | Reject]], where: str) -> Partition:
    """Deal out the records of a file.

    Args:
        spec: the splits.
        rows: reads the file from its start.
        where: names the dataset in messages.

    Raises:
        DataError: a split would be empty, or nothing would be left for training.
    """
    joined, places = _groups(spec, rows())
    bounds = _shares(spec)
    low = bounds[-1][1] if bounds else 0
    rest = iter(sorted(place for place in places if place >= low))
    for name, size in spec.parts.items():
        if isinstance(size, float):
            continue
        taken = 0
        while taken < size and (place := next(rest, None)) is not None:
            taken += places[place]
            low = place + 1
        bounds.append((name, low))
        if taken < size:
            raise _too_few(name, taken, places, where)
    result = Partition(spec, tuple(bounds), joined)
    filled = {result.at(place) for place in places}
    for name in (*spec.parts, TRAIN):
        if name not in filled:
            raise _too_few(name, 0, places, where)
    return result


def _groups(spec: SplitOff, rows: Iterator[Row | Reject]) -> tuple[dict[int, int], Counter[int]]:
    """Return which keys belong together, and the records of each group."""
    joined: dict[int, int] = {}
    firsts: Counter[int] = Counter()
    for row in rows:
        keys = keys_of(row, spec) if isinstance(row, Row) else row
        if not isinstance(keys, Reject):
            firsts[keys[0]] += 1
            for other in keys[1:]:
                _join(joined, keys[0], other)
    places: Counter[int] = Counter()
    for key, count in firsts.items():
        places[_find(joined, key)] += count
    return joined, places


def _shares(spec: SplitOff) -> list[tuple[str, int]]:
    """Return the bounds of the parts that are shares."""
    bounds, low = [], 0
    for name, size in spec.parts.items():
        if isinstance(size, float):
            low += int(size * _SPACE)
            bounds.append((name, low))
    return bounds


def _too_few(name: str, taken: int, places: Counter[int], where: str) -> DataError:
    return DataError(
        f"split {name} would get {taken} records: there are {places.total()} in {len(places)} "
        "groups that must not be divided",
        code="VT-DATA-050",
        where=where,
        remedy="give split_off other sizes or another seed, or group by something finer",
    )


def _hash(spec: SplitOff, name: str) -> int:
    text = f"{spec.seed}/{spec.by}/{name}".encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _find(joined: dict[int, int], key: int) -> int:
    """Return the smallest key of a group."""
    first = key
    while first in joined:
        first = joined[first]
    while key in joined and joined[key] != first:
        joined[key], key = first, joined[key]
    return first


def _join(joined: dict[int, int], one: int, other: int) -> None:
    one, other = sorted((_find(joined, one), _find(joined, other)))
    if one != other:
        joined[other] = one
