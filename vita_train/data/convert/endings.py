"""Records that name images with an ending that the files do not have, such as those of OCR-VQA, all
of which the LLaVA-1.5 mix calls ``.jpg``: each name becomes that of the file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

from vita_train.data.convert.rename import rename_media
from vita_train.data.media.endings import ENDINGS
from vita_train.data.sources.texts import read_values


def resolve_endings(path: Path, roots: Iterable[Path], out: Path) -> tuple[int, int, int]:
    """Write a record file whose image names are those of files below the roots, and beside it
    ``NAME.rejects.jsonl`` with the records that name an image which no file is.

    Returns:
        Records written, records rejected, image names that were changed.

    Raises:
        DataError: the record file cannot be read, or ``out`` is the file itself.
    """
    found = dict(_resolved(path, list(roots)))
    written, reasons = rename_media(path, out, found, ("image",))
    return written, reasons.total(), sum(name != file for name, file in found.items())


def _resolved(path: Path, roots: list[Path]) -> Iterable[tuple[str, str]]:
    names = {
        str(PurePosixPath(name.replace("\\", "/")))
        for value in read_values(path)
        if isinstance(value, dict)
        for name in _names(value.get("image"))
    }
    for name in sorted(names):
        for root in roots:
            if file := _file(root, name):
                yield name, file
                break


def _names(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [name for name in values if isinstance(name, str) and name]


def _file(root: Path, name: str) -> str:
    """Return the name below a root of the file that is meant; empty where there is none."""
    pure = PurePosixPath(name)
    there = _listed(root / pure.parent)
    if pure.name in there:
        return name
    ending = next((each for each in ENDINGS["image"] if f"{pure.stem}{each}" in there), "")
    return str(pure.with_suffix(ending)) if ending else ""


@lru_cache(maxsize=64)
def _listed(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
