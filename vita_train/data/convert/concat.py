"""Short records joined into conversations of several turns, up to a number of tokens.

What the public ``concat_data_patch`` does, with every record accounted for: files stay aligned with
their placeholders and sets with their images, ``inserted_id`` moves with its turn, ``end_tag`` and
videos are kept.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from vita_train.console import say
from vita_train.data.check.examine import Examiner
from vita_train.data.prepare.row_encoder import Example
from vita_train.data.sampling.mix import key_of, permute
from vita_train.data.sources.reading import Reject, Row
from vita_train.data.sources.records import Record
from vita_train.data.sources.source import RecordSource
from vita_train.errors import UserError

_PROGRESS = 5000
#: Records whose places are computed at once.
_BLOCK = 65_536


@dataclass(frozen=True)
class ConcatSettings:
    """How records are joined."""

    tokens: int = 6000
    """The most a joined record may have, each of its records counted as if it stood alone. The
    joined one has a few less: the system text stands in it once. A record that has more by itself
    stays alone."""
    across: bool = True
    """Join records of different sets."""
    seed: int = 0
    """Of the order in which records are joined."""


@dataclass
class ConcatReport:
    """What became of the records; ``read`` is the sum of ``used`` and of ``reasons``."""

    read: int = 0
    used: int = 0
    written: int = 0
    """Records after joining."""
    alone: int = 0
    """Written records that consist of one."""
    over: int = 0
    """Records of more tokens than the limit; each stays alone."""
    tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Records that cannot be used."""


def concat_records(
    sources: Sequence[RecordSource],
    out: Path,
    examiner: Examiner,
    settings: ConcatSettings,
) -> ConcatReport:
    """Write the records of some files joined, a JSON array, and beside it ``NAME.ledger.jsonl``:
    a line for each record that was read, with the place it got or the reason why it has none.

    Records are taken in an order shuffled by the seed, and appended to the open record as long as
    it has room. Records with a video stay alone, an interrupted answer ends its record, and no
    record gets two negative turns. Memory takes some tens of bytes a record.

    Raises:
        UserError: ``out`` is one of the files that are read.
        DataError: a file cannot be read, or a media root is missing or empty.
    """
    for source in sources:
        if out.exists() and source.path.exists() and out.samefile(source.path):
            raise UserError(
                "would be overwritten",
                code="VT-USE-223",
                where=str(source.path),
                remedy="give another file to write",
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    ledger = out.with_name(f"{out.stem}.ledger.jsonl")
    parts = [path.with_name(f"{path.name}.part") for path in (out, ledger)]
    report = ConcatReport()
    try:
        with ExitStack() as stack:
            written, ledgered = (
                stack.enter_context(part.open("w", encoding="utf-8")) for part in parts
            )
            spool = _Spool(stack.enter_context(TemporaryFile(dir=out.parent)))
            _read(sources, examiner, spool, ledgered, report)
            _join(spool, settings, written, ledgered, report)
        parts[1].replace(ledger)
        parts[0].replace(out)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return report


@dataclass
class _Entry:
    """A record that waits to be joined."""

    file: str
    row: int
    id: Any
    """As the file has it."""
    name: str
    tokens: int
    record: dict[str, Any]


class _Spool:
    """Records on disk, found by their number."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._starts = stream, array("Q")

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, entry: _Entry) -> None:
        self._starts.append(self._stream.tell())
        self._stream.write(json.dumps(vars(entry)).encode() + b"\n")

    def get(self, number: int) -> _Entry:
        self._stream.seek(self._starts[number])
        return _Entry(**json.loads(self._stream.readline()))


def _read(
    sources: Sequence[RecordSource],
    examiner: Examiner,
    spool: _Spool,
    ledger: IO[str],
    report: ConcatReport,
) -> None:
    for source in sources:
        for found in examiner.split(source):
            report.read += 1
            if report.read % _PROGRESS == 0:
                say(f"concat: {report.read} records measured")
            row, result = found.row, found.result
            if isinstance(result, Reject):
                report.reasons[result.reason] += 1
                line = {"file": source.path.name, "row": result.row, "id": result.id}
                _write_line(ledger, {**line, "reason": result.reason, "detail": result.detail})
                continue
            assert isinstance(row, Row)
            assert isinstance(result, Example)
            record = row.record.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            spool.add(
                _Entry(source.path.name, row.row, row.record.id, row.id, result.tokens, record)
            )


def _join(
    spool: _Spool,
    settings: ConcatSettings,
    out: IO[str],
    ledger: IO[str],
    report: ConcatReport,
) -> None:
    open_groups: dict[str, list[_Entry]] = {}

    def close(group: str) -> None:
        members = open_groups.pop(group, [])
        if not members:
            return
        out.write("[\n" if not report.written else ",\n")
        out.write(json.dumps(_joined(members), ensure_ascii=True))
        for place, member in enumerate(members):
            line = {"file": member.file, "row": member.row, "id": member.name}
            line |= {"tokens": member.tokens, "record": report.written, "place": place}
            _write_line(ledger, line)
        report.written += 1
        report.used += len(members)
        report.alone += len(members) == 1
        report.over += len(members) == 1 and members[0].tokens > settings.tokens
        report.tokens += sum(member.tokens for member in members)

    for number in _shuffled(len(spool), settings.seed):
        entry = spool.get(number)
        group = _group_of(entry.record, across=settings.across)
        if not _has_room(open_groups.get(group, []), entry, settings.tokens):
            close(group)
        open_groups.setdefault(group, []).append(entry)
        if "video" in entry.record or entry.record.get("end_tag") is False:
            close(group)
    for group in sorted(open_groups):
        close(group)
    out.write("\n]\n" if report.written else "[]\n")


def _shuffled(count: int, seed: int) -> Iterator[int]:
    for start in range(0, count, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, count))
        yield from permute(block, count, key_of(seed, "concat")).tolist()


def _group_of(record: dict[str, Any], *, across: bool) -> str:
    """Name of the records that one may be joined with."""
    for kind in ("video", "document"):
        if kind in record:
            return kind
    if across:
        return "any"
    return json.dumps(sorted(set(_sets(record)), key=str))


def _sets(record: dict[str, Any]) -> list[str | None]:
    return Record.model_validate(record).image_sets


def _has_room(members: Sequence[_Entry], entry: _Entry, most: int) -> bool:
    if sum(member.tokens for member in members) + entry.tokens > most:
        return False
    if "inserted_id" in entry.record and any("inserted_id" in each.record for each in members):
        return False
    together = [*(member.record for member in members), entry.record]
    # Sets are stated for all images of a record, or for none.
    sets = [name is None for record in together for name in _sets(record)]
    if any(sets) and not all(sets):
        return False
    # An interrupted answer may not stand beside images without any recording.
    kinds = {kind for record in together for kind in ("image", "audio") if kind in record}
    return entry.record.get("end_tag") is not False or kinds != {"image"}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _joined(members: Sequence[_Entry]) -> dict[str, Any]:
    """One record of several, in their order; of one, that record."""
    if len(members) == 1:
        return members[0].record
    whole = "document" if "document" in members[0].record else "conversations"
    joined: dict[str, Any] = {"id": [member.id for member in members], whole: []}
    sets: list[str] = []
    for member in members:
        record = member.record
        if "inserted_id" in record:
            joined["inserted_id"] = record["inserted_id"] + len(joined[whole])
        if "end_tag" in record:
            joined["end_tag"] = record["end_tag"]
        joined[whole] += _as_list(record[whole])
        for kind in ("image", "audio"):
            if names := record.get(kind, []):
                joined.setdefault(kind, []).extend(_as_list(names))
        sets += [name for name in _sets(record) if name is not None]
    if sets:
        joined["set"] = sets
    return joined


def _write_line(stream: IO[str], value: dict[str, Any]) -> None:
    stream.write(json.dumps(value, ensure_ascii=True) + "\n")


def record_files(folders: Sequence[Path]) -> list[Path]:
    """Return the record files of some folders (their ``.json`` and ``.jsonl``), sorted; a file that
    is named stands for itself.

    Raises:
        UserError: one is neither folder nor file, or there is nothing in it.
    """
    found: list[Path] = []
    for folder in folders:
        files = [folder]
        if folder.is_dir():
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if entry.is_file())
            files = [folder / name for name in names if Path(name).suffix in (".json", ".jsonl")]
        if not files or not all(path.exists() for path in files):
            raise UserError(
                "holds no record files",
                code="VT-USE-224",
                where=str(folder),
                remedy="give folders with .json or .jsonl files, or such files",
            )
        found += files
    return found
