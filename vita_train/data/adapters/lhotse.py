"""Manifests of lhotse: ``*recordings*.jsonl`` and ``*supervisions*.jsonl``, plain or gzipped, in
folders of which each is a split, or in one with the split in the names of the files.

They are read as JSON; lhotse itself is not needed. Where every supervision of a split covers its
recording, the recordings are used where they are; otherwise each is cut out and written as a file
of its own.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected, missing, write_rows
from vita_train.data.adapters.speech import recording
from vita_train.data.segments import Segment, cut_segments
from vita_train.data.sources.registry import Dataset, SplitSource
from vita_train.data.sources.texts import RowError, read_values
from vita_train.errors import DataError

#: Seconds by which a supervision may fall short of its recording and still cover it.
_NEAR = 0.05
_SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "test": "test"}


def adapt(given: Input) -> Dataset:
    """Write the records, cut out what has to be, and return the dataset.

    Raises:
        DataError: there are no manifests for training, one is none, or a split has no record.
    """
    root = Path(given.root("audio"))
    pairs = dict(_manifests(root))
    if "train" not in pairs:
        raise missing(root / "*supervisions*train*.jsonl.gz")
    splits = {}
    for split, (supervisions, recordings) in sorted(pairs.items()):
        utterances = list(_utterances(supervisions, recordings, root))
        whole = all(isinstance(one, Rejected) or one.is_whole for one in utterances)
        audio = root if whole else given.out / "segments" / split
        rows = _in_place(utterances, root) if whole else _cut(utterances, audio)
        records = given.out / f"{split}.jsonl"
        write_rows(records, rows)
        splits[split] = SplitSource(records=records.name, roots={"audio": str(audio)})
    return Dataset(task=str(given.entry.task), splits=splits)


@dataclass(frozen=True)
class _Utterance:
    """A supervision and its recording."""

    id: str
    text: str
    path: Path
    start: float
    end: float
    is_whole: bool


def _manifests(root: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    for path in sorted(root.rglob("*supervisions*.jsonl*")):
        other = path.with_name(path.name.replace("supervisions", "recordings"))
        words = re.split(r"[^a-z]+", path.relative_to(root).as_posix().lower())
        split = next((_SPLITS[word] for word in words if word in _SPLITS), "train")
        if not other.is_file():
            raise missing(other)
        yield split, (path, other)


def _utterances(
    supervisions: Path, recordings: Path, root: Path
) -> Iterator[_Utterance | Rejected]:
    """Yield what was said, recording by recording."""
    known = {row["id"]: row for row in _lines(recordings)}
    for row in sorted(
        _lines(supervisions), key=lambda row: (str(row.get("recording_id")), row["id"])
    ):
        source = known.get(row.get("recording_id"), {})
        text, path = " ".join(str(row.get("text") or "").split()), _file(source, root)
        if not text:
            yield Rejected(row["id"], "no transcript")
        elif path is None:
            yield Rejected(row["id"], "no recording")
        else:
            start, length = _number(row.get("start")), _number(source.get("duration"))
            end = start + _number(row.get("duration"))
            is_whole = start <= _NEAR and end >= length - _NEAR
            yield _Utterance(row["id"], text, path, start, length if is_whole else end, is_whole)


def _in_place(
    utterances: Iterable[_Utterance | Rejected], root: Path
) -> Iterator[dict[str, Any] | Rejected]:
    for one in utterances:
        if isinstance(one, Rejected):
            yield one
        else:
            yield recording(one.id, one.text, one.path.relative_to(root).as_posix())


def _cut(
    utterances: Sequence[_Utterance | Rejected], out: Path
) -> Iterator[dict[str, Any] | Rejected]:
    yield from (one for one in utterances if isinstance(one, Rejected))
    spoken = [one for one in utterances if isinstance(one, _Utterance)]
    cuts = cut_segments([Segment(one.path, one.start, one.end) for one in spoken], out)
    for one, cut in zip(spoken, cuts, strict=True):
        yield recording(one.id, one.text, cut.name) if cut.name else Rejected(one.id, cut.reason)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _file(row: Mapping[str, Any], root: Path) -> Path | None:
    """Return the file of a recording, its first source, if it lies below the corpus' folder."""
    sources = row.get("sources")
    first = sources[0] if isinstance(sources, list) and sources else None
    name = first.get("source") if isinstance(first, dict) and first.get("type") == "file" else None
    if not isinstance(name, str):
        return None
    path = Path(os.path.normpath(root / name))
    return path if path.is_relative_to(root) and os.path.isfile(path) else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a manifest.

    Raises:
        DataError: it is none.
    """
    rows = list(read_values(path))
    if all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        return rows
    faults = (str(row) for row in rows if isinstance(row, RowError))
    fault = next(faults, "a row has no id")
    raise DataError(
        f"is no manifest of lhotse: {fault}",
        code="VT-DATA-083",
        where=str(path),
        remedy="write it again with lhotse",
    )
