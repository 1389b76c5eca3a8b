"""Where the shards of record files ended when they were last cut, so that what still stands there
need not be read line by line again.

That holds for files of lines as most programs write them. No result depends on it: a shard is
taken from here only where the bytes of the file are those of its records, and the others are cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import vita_train
from vita_train.data.prepare.shards import Shard, cut
from vita_train.data.sources.source import RecordSource
from vita_train.data.sources.texts import RowError, is_plain_lines, lines_of
from vita_train.recipe.base import Strict

CUTS = "cuts.json"
_FORMAT: Literal["vita-train/cuts/v1"] = "vita-train/cuts/v1"


class Stretch(Strict):
    """Consecutive bytes of a record file that are a shard."""

    bytes: int
    sha256: str
    rows: int
    content: str
    """Of the shard."""


class Cuts(Strict):
    """The shards that record files begin with, by dataset and split."""

    format: Literal["vita-train/cuts/v1"] = _FORMAT
    version: str = vita_train.__version__
    splits: dict[str, list[Stretch]] = {}

    @classmethod
    def load(cls, folder: Path) -> Cuts:
        """Read what is kept in a folder; nothing where another release cut, or nothing can be
        read."""
        try:
            found = cls.model_validate_json((folder / CUTS).read_bytes())
        except (OSError, ValueError):
            return cls()
        return found if found.version == vita_train.__version__ else cls()

    def save(self, folder: Path) -> None:
        """Keep this in a folder, if it can be written: the next preparation only takes longer
        without it."""
        with suppress(OSError):
            (folder / CUTS).write_text(self.model_dump_json(), encoding="utf-8")


def shards_of(
    source: RecordSource, known: Sequence[Stretch]
) -> Iterator[tuple[Shard, Stretch | None]]:
    """Yield the shards of a split, those that its file still begins with as they are known, each
    with what is to be known of it next time.

    Raises:
        DataError: the file cannot be read.
    """
    # What is split off lies between other records
    is_plain = source.split_off is None and is_plain_lines(source.path)
    start, row = 0, 0
    if is_plain:
        for shard, stretch in _unchanged(source.path, known):
            yield shard, stretch
            start, row = start + stretch.bytes, row + stretch.rows
    for shard in cut(source.records(start, row)):
        found = _stretch_of(shard) if is_plain else None
        is_plain = found is not None
        yield shard, found


def _unchanged(path: Path, known: Sequence[Stretch]) -> Iterator[tuple[Shard, Stretch]]:
    row = 0
    try:
        with path.open("rb") as stream:
            for each in known:
                data = stream.read(each.bytes)
                if hashlib.sha256(data).hexdigest() != each.sha256:
                    return
                rows = range(row, row + each.rows)
                yield Shard(rows, data, each.content, ends_by_content=True), each
                row += each.rows
    except OSError:
        return  # the one who reads on says what is wrong


def _stretch_of(shard: Shard) -> Stretch | None:
    """Return a shard that was cut as bytes of a file of lines; None where such bytes do not give
    just this shard, whatever follows them."""
    if not shard.ends_by_content or any(isinstance(text, RowError) for text in shard.texts):
        return None
    lines = "".join(f"{text}\n" for text in shard.texts)
    data = lines.encode("utf-8", errors="surrogatepass")
    if lines_of(data) != shard.texts:
        return None
    return Stretch(
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        rows=len(shard.rows),
        content=shard.content,
    )
