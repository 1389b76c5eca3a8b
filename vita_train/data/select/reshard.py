"""Records of many files cut anew into shards of a number of rows, or into a number of shards, in
their order or shuffled. Memory does not grow with the records."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from vita_train.data.crawl.rows import list_files
from vita_train.data.sampling.mix import key_of, permute
from vita_train.data.sources.texts import RowError, read_values
from vita_train.errors import UserError

LEDGER = "shards.json"
#: Bytes of records that are sorted at once.
MEMORY = 128 << 20
#: Bytes that a line takes in a list beside its own.
_OF_A_LINE = 56
#: Files that are open beside each other.
_MOST_BUCKETS = 512
_BLOCK = 4096


@dataclass(frozen=True)
class ReshardSettings:
    """How records are cut: either of ``rows`` and ``shards`` is given."""

    rows: int = 0
    """Of each shard."""
    shards: int = 0
    """Whose sizes differ by at most one row."""
    seed: int | None = None
    """Of the shuffle; none keeps the order of the files."""
    keep_tail: bool = True
    """With ``rows``: keep what is left as a smaller shard."""


@dataclass
class Resharded:
    """Counts: rows read are rows written, dropped, and no objects."""

    read: int = 0
    written: int = 0
    dropped: int = 0
    """Of the tail."""
    unreadable: int = 0
    shards: list[dict[str, str | int]] = field(default_factory=list)
    """Name, rows and sha256 of each."""


def reshard(
    paths: Sequence[Path], out: Path, settings: ReshardSettings, *, memory: int = MEMORY
) -> Resharded:
    """Write ``part-00000.jsonl`` and so on with the rows of each in ``part-00000.count``, and
    ``shards.json`` last. The same records and seed give the same shards.

    Args:
        paths: record files, or folders of them.
        out: folder to write; it is new, or an earlier one of this command.
        settings: how they are cut.
        memory: bytes of records that are held at once when they are shuffled.

    Raises:
        UserError: there is no row, or ``out`` holds something else or a file that is read.
        DataError: a file cannot be read.
        OSError: it cannot be written.
    """
    files = list_files(paths)
    if tables := [file for file in files if file.suffix == ".parquet"]:
        raise UserError(
            "is a table, not a file of records",
            code="VT-USE-298",
            where=str(tables[0]),
            remedy="make records of it first: vita-train data rewrite",
        )
    _check_out(out, files)
    counts = Resharded()
    size = _measure(files, counts)
    total = counts.read - counts.unreadable
    if not total:
        raise UserError(
            "there is no record in the files",
            code="VT-USE-299",
            where=", ".join(map(str, paths)),
            remedy="give JSON Lines or JSON arrays, or folders of them",
        )
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        lines, buckets = _lines(files), part / "buckets"
        if settings.seed is not None:
            lines = _shuffled(lines, total, size, settings.seed, buckets, memory)
        _write(lines, _ends(total, settings), part, counts)
        shutil.rmtree(buckets, ignore_errors=True)  # the last, and those of a tail that is dropped
        counts.dropped = total - counts.written
        ledger = {"settings": asdict(settings), **asdict(counts)}
        (part / LEDGER).write_text(json.dumps(ledger, indent=1), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return counts


def _check_out(out: Path, files: Sequence[Path]) -> None:
    if not out.exists():
        return
    if not (out / LEDGER).is_file() or any(
        out.resolve() in file.resolve().parents for file in files
    ):
        raise UserError(
            "holds something else than shards of this command, or files that are read",
            code="VT-USE-300",
            where=str(out),
            remedy="give another folder to write",
        )


def _measure(files: Sequence[Path], counts: Resharded) -> int:
    """Count the rows; return the bytes of those that are kept."""
    size = 0
    for line in _lines(files, counts):
        size += len(line)
    return size


def _lines(files: Sequence[Path], counts: Resharded | None = None) -> Iterator[bytes]:
    """Yield each record as a line of JSON; rows that are no objects are counted and left out."""
    for file in files:
        for value in read_values(file):
            is_row = isinstance(value, dict) and not isinstance(value, RowError)
            if counts is not None:
                counts.read += 1
                counts.unreadable += not is_row
            if is_row:
                yield json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _ends(total: int, settings: ReshardSettings) -> Iterator[int]:
    """Yield the end of each shard."""
    if settings.shards:
        yield from ((number + 1) * total // settings.shards for number in range(settings.shards))
        return
    whole = total - total % settings.rows
    yield from range(settings.rows, whole + 1, settings.rows)
    if settings.keep_tail and whole < total:
        yield total


def _write(lines: Iterator[bytes], ends: Iterator[int], folder: Path, counts: Resharded) -> None:
    for number, end in enumerate(ends):
        name, digest, rows = f"part-{number:05d}", hashlib.sha256(), 0
        with (folder / f"{name}.jsonl").open("wb") as stream:
            while counts.written < end:
                line = next(lines)
                stream.write(line)
                digest.update(line)
                counts.written += 1
                rows += 1
        (folder / f"{name}.count").write_text(str(rows), encoding="utf-8")
        counts.shards.append({"name": f"{name}.jsonl", "rows": rows, "sha256": digest.hexdigest()})


def _shuffled(
    lines: Iterator[bytes], total: int, size: int, seed: int, folder: Path, memory: int
) -> Iterator[bytes]:
    """Yield lines in a drawn order: each gets the number of its place, and they are sorted by it,
    in buckets on disk."""
    folder.mkdir()
    digits = len(str(total))  # as many for all, so that lines are in order as bytes

    def numbered() -> Iterator[bytes]:
        for start in range(0, total, _BLOCK):
            block = np.arange(start, min(start + _BLOCK, total))
            for place in permute(block, total, key_of(seed, "reshard")).tolist():
                yield b"%0*d" % (digits, place) + next(lines)

    places = range(total)
    for line in _in_order(numbered(), places, digits, size + digits * total, folder, memory):
        yield line[digits:]


def _in_order(
    lines: Iterator[bytes], places: range, digits: int, size: int, folder: Path, memory: int
) -> Iterator[bytes]:
    """Yield lines that begin with the numbers of ``places``, each once, in their order; ``size`` is
    that of all together."""
    size += _OF_A_LINE * len(places)
    if size <= memory or len(places) == 1:
        yield from sorted(lines)
        return
    # Half as large as may be: sizes differ by chance, and few are to be cut once more.
    count = min(_MOST_BUCKETS, 2 * size // memory + 1, len(places))
    starts = [-(-number * len(places) // count) for number in range(count + 1)]
    within = [places[start:end] for start, end in pairwise(starts)]
    paths = [folder / f"{part.start}-{part.stop}" for part in within]
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("wb")) for path in paths]
        for line in lines:
            place = int(line[:digits]) - places.start
            streams[place * count // len(places)].write(line)
    for part, path in zip(within, paths, strict=True):
        with path.open("rb") as bucket:
            yield from _in_order(bucket, part, digits, path.stat().st_size, folder, memory)
        path.unlink()
