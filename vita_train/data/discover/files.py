"""The files of a folder, and what a record file among them says: its dataset, split and task,
guessed from its name and its contents."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vita_train.data.constants import PLACEHOLDERS
from vita_train.data.sources.reading import Reject, Row, read_records
from vita_train.errors import DataError

RECORDS = {".json", ".jsonl", ".ndjson"}
SPLITS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
_DESCRIBE, _TRANSCRIBE = (
    re.compile(r"describ|caption", re.I),
    re.compile(r"transcri|write down", re.I),
)


@dataclass
class RecordFile:
    """A record file and what it says."""

    path: Path
    dataset: str
    split: str
    used: int = 0
    rejected: int = 0
    first_reject: str = ""
    tasks: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Root key to the media files named below it."""


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder in a fixed order; hidden ones and links to folders are passed
    over."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def read_file(path: Path, folder: Path, notes: list[str]) -> RecordFile | None:
    """Return what a record file says; None, and a note, where it holds no records."""
    shown = path.relative_to(folder)
    file = RecordFile(path, *_dataset_and_split(path, folder))
    try:
        for row in read_records(path, _Anywhere(image=folder)):
            if isinstance(row, Reject):
                file.rejected += 1
                file.first_reject = file.first_reject or f"record {row.row}: {row.detail}"
            else:
                file.used += 1
                file.tasks[_task(row)] += 1
                for ref in (*row.images, *row.videos, *row.audios):
                    file.names[ref.root].append(ref.name)
    except DataError as error:
        notes.append(f"{shown}: not read: {error.what}")
        return None
    if not file.used:
        notes.append(f"{shown}: no records ({file.first_reject or 'it is empty'})")
        return None
    if file.rejected:
        notes.append(
            f"{shown}: {file.rejected} of {file.used + file.rejected} records would be rejected "
            f"({file.first_reject})"
        )
    return file


def _dataset_and_split(path: Path, folder: Path) -> tuple[str, str]:
    """``captions-test.json`` is the test split of captions; so are ``test/captions.json``,
    ``captions/test.json``."""
    words = [
        word
        for word in re.split(r"[^A-Za-z0-9]+", str(path.relative_to(folder).with_suffix("")))
        if word
    ]
    split = next(
        (SPLITS[word.lower()] for word in reversed(words) if word.lower() in SPLITS), "train"
    )
    rest = [word for word in words if word.lower() not in SPLITS] or [folder.resolve().name]
    name = re.sub(r"\W+", "_", "_".join(rest)).strip("_").lower() or "data"
    return (name if name[0].isalpha() else f"data_{name}"), split


def _task(row: Row) -> str:
    asked = " ".join(turn.value for turn in row.record.conversations if turn.role == "human")
    for kind in PLACEHOLDERS:
        asked = asked.replace(f"<{kind}>", " ")
    rounds = len(row.record.conversations) // 2
    if row.audios:
        if row.record.inserted_id is not None:
            return "negative"
        return "asr" if _TRANSCRIBE.search(asked) else "speech_qa"
    if row.images or row.videos:
        return "caption" if rounds == 1 and (not asked.strip() or _DESCRIBE.search(asked)) else "qa"
    return "dialogue" if rounds > 1 else "instruct"


class _Anywhere(dict[str, Path]):
    """Roots of records whose roots are not known yet: every key is one, and without a key it is
    ``image``."""

    def __contains__(self, key: object) -> bool:
        return True
