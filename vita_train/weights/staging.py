"""Directories that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vita_train.errors import UserError
from vita_train.storage.scratch import scratch_folder


@contextmanager
def atomic_directory(out: Path, marker: str, kind: str) -> Iterator[Path]:
    """Give a directory to write into, beside ``out``, which gets that name when the block ends
    without an error.

    Args:
        out: the directory to make. One of the same kind that stands there is replaced; anything
            else is refused.
        marker: file that every directory of the kind has.
        kind: what to call it in messages.

    Raises:
        UserError: ``out`` holds something else.
    """
    out = Path(out)
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"exists and is no {kind}",
            code="VT-USE-129",
            where=str(out),
            remedy="choose another directory",
        )
    # Beside `out`, on its file system: only there is giving it its name a rename
    with scratch_folder(out.parent, out.name) as scratch:
        staging_dir = scratch / "new"
        staging_dir.mkdir()
        yield staging_dir
        if out.exists():
            # A directory cannot be renamed onto one with files: the old one steps aside, and goes
            # with the scratch
            os.replace(out, scratch / "old")
        os.replace(staging_dir, out)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object for people and programs to read."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
