"""Which files of a place are taken, and where they go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from vita_train.errors import DataError, UserError


def chosen(names: Iterable[str], patterns: Sequence[str], where: str) -> list[str]:
    """Return the names that match a pattern, sorted; a folder's name stands for all in it.

    Raises:
        UserError: a pattern matches none; the nearest names are told.
    """
    known = sorted(names)
    taken: set[str] = set()
    for pattern in patterns:
        found = [
            name
            for name in known
            if fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('/')}/")
        ]
        if not found:
            near = get_close_matches(pattern, known, n=3)
            raise UserError(
                f"has no file {pattern!r}",
                code="VT-USE-200",
                where=where,
                remedy=f"did you mean {' or '.join(near)}?"
                if near
                else f"it has {len(known)} files, such as {', '.join(known[:5]) or 'none'}",
            )
        taken.update(found)
    return sorted(taken)


def within(folder: str, name: str, where: str) -> str:
    """Return the path of a file that a server named, below a folder of the target tree.

    Raises:
        DataError: the name would lead out of it.
    """
    parts = PurePosixPath(name).parts
    unsafe = (
        not parts
        or name.startswith("/")
        or any(part in ("..", ".") or "\0" in part or "\\" in part for part in parts)
        or any("\ud800" <= letter <= "\udfff" for letter in name)
        or len(name.encode()) > 4000
        or any(len(part.encode()) > 255 for part in parts)
    )
    if unsafe:
        raise DataError(
            f"names a file {name[:200]!r} outside the target folder",
            code="VT-DATA-057",
            where=where,
            remedy="do not use this source",
        )
    return str(PurePosixPath(folder, *parts))
