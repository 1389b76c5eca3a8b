"""Pointers that Git LFS leaves in place of files that were not pulled: never data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vita_train.errors import DataError

_BEGIN = b"version https://git-lfs.github.com/spec/"
#: A pointer is smaller than this.
_MOST = 1024


def is_pointer(path: Path) -> bool:
    """Say whether a file is a pointer."""
    if path.stat().st_size >= _MOST:
        return False
    with path.open("rb") as file:
        return file.read(len(_BEGIN)) == _BEGIN


def refuse_pointers(paths: Iterable[Path], where: Path) -> None:
    """Refuse files among which there are pointers, with one message for all of them.

    Raises:
        DataError: there are some.
    """
    found = [path for path in paths if is_pointer(path)]
    if found:
        raise DataError(
            f"{len(found)} of the files are pointers of Git LFS, not the files themselves: "
            + ", ".join(path.name for path in found[:3]),
            code="VT-DATA-055",
            where=str(where),
            remedy="in the checkout run git lfs install and git lfs pull, or fetch the repository "
            "by its hub name",
        )
