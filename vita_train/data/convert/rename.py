"""Record files with the names of converted media."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from vita_train.data.convert.media import MediaKind
from vita_train.data.sources.reading import row_id
from vita_train.data.sources.texts import RowError, read_values
from vita_train.errors import DataError


def rename_media(
    path: Path, out: Path, targets: Mapping[str, str], kinds: tuple[MediaKind, ...]
) -> tuple[int, Counter[str]]:
    """Write a record file whose media have new names, and beside it ``NAME.rejects.jsonl`` with the
    records that name a file which has none; the input stays as it is.

    Args:
        path: the record file, as any that is read.
        out: JSON array to write; fields that the format does not have are kept.
        targets: old name to new.
        kinds: of the media that have new names; those of other kinds keep theirs.

    Returns:
        Records written, and records rejected by reason.

    Raises:
        DataError: the file cannot be read, or ``out`` is the file itself.
    """
    if out.exists() and path.exists() and out.samefile(path):
        raise DataError(
            "would be overwritten",
            code="VT-DATA-077",
            where=str(path),
            remedy="give another file to write",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    listed = out.with_name(f"{out.stem}.rejects.jsonl")
    parts = [each.with_name(f"{each.name}.part") for each in (out, listed)]
    written, reasons = 0, Counter[str]()
    try:
        with ExitStack() as stack:
            stream, rejects = (
                stack.enter_context(part.open("w", encoding="utf-8")) for part in parts
            )
            stream.write("[")
            for row, value in enumerate(read_values(path)):
                reason, detail = _renamed(value, targets, kinds)
                if reason:
                    reasons[reason] += 1
                    name = row_id(row, value) if isinstance(value, dict) else ""
                    line = {"row": row, "id": name, "reason": reason, "detail": detail}
                    rejects.write(json.dumps(line, ensure_ascii=True) + "\n")
                    continue
                stream.write((",\n" if written else "\n") + json.dumps(value, ensure_ascii=True))
                written += 1
            stream.write("\n]\n")
        parts[1].replace(listed)
        parts[0].replace(out)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return written, reasons


def _renamed(
    value: Any, targets: Mapping[str, str], kinds: tuple[MediaKind, ...]
) -> tuple[str, str]:
    """Change the names in a record in place; return why that cannot be, reason and detail, both
    empty where it was done."""
    if isinstance(value, RowError):
        return value.reason, value.detail
    if not isinstance(value, dict):
        return "not an object", f"expected an object, found {type(value).__name__}"
    for kind in kinds:
        names = value.get(kind)
        listed = names if isinstance(names, list) else [names] if names else []
        new = []
        for name in listed:
            if not isinstance(name, str):
                return "wrong value", f"{kind}: {type(name).__name__} is no file name"
            target = targets.get(str(PurePosixPath(name.replace("\\", "/"))))
            if target is None:
                return "not converted", f"{kind} {name!r} was rejected, or is not in the folder"
            new.append(target)
        if new:
            value[kind] = new if isinstance(names, list) else new[0]
    return "", ""
