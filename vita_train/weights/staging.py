"""Directories that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vita_train.errors import UserError


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
    staging_dir = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(staging_dir, ignore_errors=True)
    staging_dir.mkdir(parents=True)
    try:
        yield staging_dir
        old = out.with_name(f".{out.name}.{os.getpid()}.old")
        if out.exists():
            os.replace(out, old)
        os.replace(staging_dir, out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staging_dir, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object for people and programs to read."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
