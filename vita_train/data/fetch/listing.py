"""What a fetch would bring, with nothing brought and nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vita_train.data.catalogue.entry import Entry
from vita_train.data.catalogue.load import Catalogue
from vita_train.data.fetch.folder import translated
from vita_train.data.fetch.limits import Limits
from vita_train.data.fetch.lock import FetchLock, read_lock
from vita_train.data.fetch.wanted import probed, resolve_entries


@dataclass(frozen=True)
class Listed:
    """One file."""

    path: str
    """Below the target folder."""
    bytes: int | None
    """None where the server does not say."""
    there: bool
    """Whether an earlier fetch brought it, or unpacked it."""


def list_files(
    entries: Sequence[Entry],
    root: Path,
    *,
    catalogue: Catalogue,
    mirror: str | None = None,
    update: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> list[Listed]:
    """Return the files that `fetch` would bring to a folder, each once; arguments and errors as of
    it."""
    with translated(root):
        lock = read_lock(root)
        pinned = {} if update else {name: source.pinned for name, source in lock.sources.items()}
        wanted = resolve_entries(entries, pinned, catalogue, mirror, limits)
        files = {file.path: (one.entry.name, file) for one in wanted for file in one.files}
        return [
            Listed(
                file.path,
                file.size if file.size is not None else file.expected,
                _is_there(name, file.path, lock, root),
            )
            for name, file in probed(list(files.values()), limits)
        ]


def _is_there(name: str, path: str, lock: FetchLock, root: Path) -> bool:
    source = lock.sources.get(name)
    known = source.files.get(path) if source else None
    if source is None or known is None:
        return False
    if any(path in unpacked.parts for unpacked in source.unpacked.values()):
        return True
    place = root / path
    return place.is_file() and place.stat().st_size == known.bytes
