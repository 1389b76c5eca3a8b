"""Files of a public format written as one record file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Rejected
from vita_train.data.constants import PLACEHOLDERS
from vita_train.data.crawl.rows import list_files, read_rows
from vita_train.data.formats import FORMATS
from vita_train.errors import DataError
from vita_train.plugins import named
from vita_train.storage.whole_file import check_not_read, whole_file

Row = tuple[str, dict[str, Any]]
"""Where a row stands, and what it holds."""
Made = dict[str, Any] | Rejected


@dataclass
class Rewritten:
    """Counts: every row that was read is in a record or rejected."""

    rows: int = 0
    records: int = 0
    used: int = 0
    """Rows that went into records, several into one where a format joins them."""
    reasons: Counter[str] = field(default_factory=Counter)


def rewrite(name: str, paths: Sequence[Path], out: Path) -> Rewritten:
    """Write the rows of files as records of one file, in the order of names and rows; what is
    rejected stands, with its reason, in ``NAME.rejects.jsonl`` beside it. Images that rows hold
    themselves become files in the folder ``NAME`` beside it, which is then their root.

    Raises:
        UserError: there is no such format or file, or ``out`` is one that is read.
        DataError: a file cannot be read, or no record came of it.
        OSError: it cannot be written.
    """
    counts = Rewritten()
    form = FORMATS[name]
    make, rows = named(form.records), named(form.rows) if form.rows else list_rows
    check_not_read(out, paths if form.rows else list_files(paths))
    out.parent.mkdir(parents=True, exist_ok=True)
    refused = out.with_suffix(".rejects.jsonl")
    with whole_file(out) as kept, whole_file(refused) as rejects:
        for made in make(_counted(rows(paths), counts)):
            if isinstance(made, Rejected):
                counts.reasons[made.reason] += 1
                rejects.write(json.dumps({"where": made.where, "reason": made.reason}) + "\n")
            else:
                if any(isinstance(image, bytes) for image in made.get("image", ())):
                    made["image"] = _files(made["image"], counts.records, out.with_suffix(""))
                counts.records += 1
                kept.write(json.dumps(made, ensure_ascii=False) + "\n")
    counts.used = counts.rows - counts.reasons.total()
    if not counts.records:
        raise DataError(
            f"none of {counts.rows} rows became a record",
            code="VT-DATA-090",
            where=str(out),
            remedy=f"see {refused}, and whether the files are {name}",
        )
    return counts


def list_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of lists, in the order of their names; one that is no object is empty.

    Raises:
        UserError: there is none.
        DataError: one cannot be read.
    """
    for file in list_files(paths):
        yield from rows_of(file, file.name)


def rows_of(file: Path, name: str) -> Iterator[Row]:
    """Yield the rows of one list under a name.

    Raises:
        DataError: it cannot be read.
    """
    for place, row in enumerate(read_rows(file)):
        yield f"{name}:{place}", row if row is not None else {}


def entries_of(file: Path) -> dict[str, Any]:
    """Return a file that is one JSON object.

    Raises:
        DataError: it is none, or cannot be read.
    """
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot be read as JSON: {type(error).__name__}",
            code="VT-DATA-134",
            where=str(file),
            remedy="give the folder as its publisher lays it out, and fetch it again if it is",
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            "is no JSON object",
            code="VT-DATA-135",
            where=str(file),
            remedy="see whether this is the file that was meant",
        )
    return value


def _counted(rows: Iterable[Row], counts: Rewritten) -> Iterator[Row]:
    for row in rows:
        counts.rows += 1
        yield row


def _files(images: Sequence[bytes], place: int, folder: Path) -> list[str]:
    """Write the images of a record; return their names below the folder."""
    names = [f"{place // 10_000:05d}/{place:09d}-{index}.img" for index in range(len(images))]
    for name, data in zip(names, images, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return names


def text_of(row: dict[str, Any], key: str) -> str:
    """Return a text of a row without space around it; nothing where it has none."""
    value = row.get(key)
    return value.strip() if isinstance(value, str) else ""


def conversation(
    where: str, pairs: Iterable[tuple[str, str]], images: Sequence[str | bytes] = ()
) -> Made:
    """Return a record of questions and answers, a placeholder for each image before the first; a
    reject where there is none, or one lacks its question or its answer."""
    turns: list[dict[str, str]] = []
    for question, answer in pairs:
        if not question.strip() or not answer.strip():
            return Rejected(where, "empty answer" if question.strip() else "empty question")
        turns += [
            {"from": "human", "value": plain(question.strip())},
            {"from": "gpt", "value": answer.strip()},
        ]
    if not turns:
        return Rejected(where, "no question")
    turns[0]["value"] = "<image>\n" * len(images) + turns[0]["value"]
    made: dict[str, Any] = {"id": where, "conversations": turns}
    return {**made, "image": list(images)} if images else made


def plain(text: str) -> str:
    """Escape what a record would take for the place of a file."""
    for kind in PLACEHOLDERS:
        text = text.replace(f"<{kind}>", f"\\<{kind}>")
    return text
