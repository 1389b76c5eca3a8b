"""Records and media that occur more than once, within a split or across splits.

Only hashes are kept, and where they were seen, 14 bytes each, so that millions of records fit into
memory.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

#: Bits in which the difference hashes of two images may differ and still be one image.
NEAR = 3
_BANDS = NEAR + 1
_BAND_BITS = 64 // _BANDS
#: Images of one band that are compared with each other; flat images share theirs by the thousand.
_MOST_IN_BAND = 2000


@dataclass(frozen=True)
class Repeat:
    """A thing that occurs again."""

    source: int
    """Place of its split."""
    row: int
    first_source: int
    first_row: int


class Seen:
    """Hashes of things with the rows they occur in."""

    def __init__(self) -> None:
        self._keys, self._sources, self._rows = array("Q"), array("H"), array("I")

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, text: str | bytes, source: int, row: int) -> None:
        """Note a thing by its content."""
        data = text.encode("utf-8", errors="surrogatepass") if isinstance(text, str) else text
        self.add_key(
            int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big"), source, row
        )

    def add_key(self, key: int, source: int, row: int) -> None:
        """Note a thing by its hash."""
        self._keys.append(key)
        self._sources.append(source)
        self._rows.append(row)

    def repeats(self) -> Iterator[Repeat]:
        """Yield every occurrence after the first, in the order they were noted in; a row that has a
        thing twice repeats nothing."""
        if not len(self):
            return
        keys = np.frombuffer(self._keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1  # mostly few, as is all from here
        del ordered
        # The first of each row of equal keys stands before the first of them that is here.
        begins = np.r_[True, np.diff(again) > 1][: len(again)]
        firsts = np.maximum.accumulate(np.where(begins, again - 1, 0))
        pairs = zip(order[again].tolist(), order[firsts].tolist(), strict=True)
        for at, first in sorted(pairs):
            if (self._sources[at], self._rows[at]) != (self._sources[first], self._rows[first]):
                yield self._repeat(at, first)

    def near(self) -> Iterator[Repeat]:
        """Yield images whose difference hashes are near, but not equal, to an earlier one's."""
        bands: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        distinct: dict[int, int] = {}
        for at, key in enumerate(self._keys):
            distinct.setdefault(key, at)
        for key, at in distinct.items():
            match = -1
            for band in range(_BANDS):
                part = key >> (band * _BAND_BITS) & ((1 << _BAND_BITS) - 1)
                others = bands[band, part]
                for other in others:
                    if 0 < (self._keys[other] ^ key).bit_count() <= NEAR:
                        match = other if match < 0 else min(match, other)
                if len(others) < _MOST_IN_BAND:
                    others.append(at)
            if match >= 0:
                yield self._repeat(at, match)

    def _repeat(self, at: int, first: int) -> Repeat:
        return Repeat(self._sources[at], self._rows[at], self._sources[first], self._rows[first])
