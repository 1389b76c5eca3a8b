"""What a check is asked to look at: a registry, or one record file with its media."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vita_train.data.sources.leniency import leniencies
from vita_train.data.sources.reading import Rules
from vita_train.data.sources.registry import load_registry
from vita_train.data.sources.source import RecordSource, open_splits
from vita_train.errors import UserError

#: A registry is no larger than this; record files may be.
_LARGEST_REGISTRY = 16 << 20
_DEFAULT = "image"


class _Roots(dict[str, Path]):
    """Roots by set key, with one for all keys that have none."""

    def __init__(self, named: dict[str, Path], rest: Path) -> None:
        super().__init__({**named, _DEFAULT: named.get(_DEFAULT, rest)})
        self._rest = rest

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and ":" not in key

    def __missing__(self, key: str) -> Path:
        return self._rest


def open_target(
    path: Path,
    *,
    roots: Sequence[str] = (),
    adapter: str | None = None,
    lenient: Sequence[str] = (),
) -> list[RecordSource]:
    """Return the splits of a registry, or a record file as one split.

    Args:
        path: the file.
        roots: of a record file, ``DIR`` for all media or ``KEY=DIR`` for those of a set (``audio``
            for recordings).
        adapter: of a record file, how lenient it is read.
        lenient: leniencies beside the adapter's.

    Raises:
        UserError: roots or leniencies are given for a registry, or are none.
        DataError: the registry cannot be read.
    """
    if is_registry(path):
        if roots or adapter or lenient:
            raise UserError(
                "roots and leniencies of a registry stand in the registry",
                code="VT-USE-158",
                where=str(path),
                remedy="leave --root, --adapter and --lenient out",
            )
        return open_splits(path.resolve(), load_registry(path))
    try:
        names = leniencies(adapter, lenient)
    except ValueError as error:
        raise UserError(
            str(error), code="VT-USE-159", where="--adapter, --lenient", remedy="give one of those"
        ) from None
    named: dict[str, Path] = {}
    rest: Path | None = None
    for word in roots:
        key, equals, folder = word.partition("=")
        if not equals:
            rest = Path(word)
        elif key and folder:
            named[key] = Path(folder)
        else:
            raise UserError(
                f"{word!r} names no root",
                code="VT-USE-160",
                where="--root",
                remedy="write --root DIR or KEY=DIR",
            )
    known = _Roots(named, rest) if rest is not None else named
    default = _DEFAULT if rest is not None else None
    name = "".join(letter if letter.isalnum() else "_" for letter in path.name.split(".")[0])
    return [RecordSource(name or "records", "train", path, known, Rules(names, default))]


def is_registry(path: Path) -> bool:
    """Tell whether a file is a registry rather than records."""
    if path.suffix in (".yaml", ".yml"):
        return True
    try:
        if path.is_file() and path.stat().st_size <= _LARGEST_REGISTRY:
            value = json.loads(path.read_bytes())
            return isinstance(value, dict) and "datasets" in value
    except (OSError, ValueError, RecursionError):
        pass
    return False
