"""The lock file of a target folder: what was fetched, from where, in which version, under which
licence.

It is written before a file gets its final name, so that a file under a final name is always in it;
and a second fetch, on another machine with the lock file in the folder, gets the same bytes or an
error.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Literal

from pydantic import Field, ValidationError

from vita_train.data.catalogue.entry import Licence
from vita_train.errors import DataError
from vita_train.recipe.base import Strict

LOCK = "fetch.lock.json"


class LockedFile(Strict):
    """One file."""

    origin: str
    bytes: int
    sha256: str
    verified: Literal["published", "recorded"]
    """published: the sha256 is what its publisher states. recorded: it is that of the first
    fetch."""


class Unpacked(Strict):
    """An archive that was unpacked, written when all of it was."""

    to: str
    parts: dict[str, str]
    """Its files in order, and the sha256 of each."""
    files: int
    bytes: int


class Acceptance(Strict):
    """A licence that was accepted."""

    licence: Licence
    accepted: str
    """Day, in UTC."""


class LockedSource(Strict):
    """One entry of the catalogue, or one source named by its address."""

    pinned: dict[str, str] = Field(default_factory=dict)
    """Commits of repositories."""
    files: dict[str, LockedFile] = Field(default_factory=dict)
    """By path in the target tree."""
    unpacked: dict[str, Unpacked] = Field(default_factory=dict)
    """By the path of the archive, without the suffixes of its parts."""
    complete: bool = False


class FetchLock(Strict):
    """All of a target folder."""

    format: Literal["vita-train/fetch-lock/v1"] = "vita-train/fetch-lock/v1"
    licences: dict[str, Acceptance] = Field(default_factory=dict)
    sources: dict[str, LockedSource] = Field(default_factory=dict)


class LockFile:
    """The lock file of a folder, open for changes by any thread; each change is written at once,
    whole or not at all.

    Raises:
        DataError: what is there is no lock file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._mutex = Lock()
        self._lock = read_lock(folder)

    @property
    def value(self) -> FetchLock:
        """What it says now."""
        return self._lock

    def source(self, name: str) -> LockedSource:
        """Return what is known of a source."""
        return self._lock.sources.get(name, LockedSource())

    def shared_file(self, path: str, origin: str) -> LockedFile | None:
        """Return a file that any source has at a path, if it is from the same place."""
        for source in self._lock.sources.values():
            file = source.files.get(path)
            if file is not None and file.origin == origin:
                return file
        return None

    def shared_unpacked(self) -> list[tuple[str, Unpacked]]:
        """Return the archives of all sources that were unpacked, with their names."""
        return [item for source in self._lock.sources.values() for item in source.unpacked.items()]

    def pin(self, name: str, pinned: dict[str, str]) -> None:
        """Note the commits of a source's repositories."""
        self._change(name, pinned={**self.source(name).pinned, **pinned})

    def add_file(self, name: str, path: str, file: LockedFile) -> None:
        """Note a file of a source."""
        with self._mutex:
            self._change(name, files={**self.source(name).files, path: file})

    def add_unpacked(self, name: str, archive: str, unpacked: Unpacked) -> None:
        """Note an archive of a source as unpacked."""
        self._change(name, unpacked={**self.source(name).unpacked, archive: unpacked})

    def finish(self, name: str) -> None:
        """Note that all of a source is there."""
        self._change(name, complete=True)

    def accept(self, name: str, licence: Licence) -> None:
        """Note that a licence was accepted."""
        day = datetime.now(UTC).date().isoformat()
        self._lock = self._lock.model_copy(
            update={
                "licences": {
                    **self._lock.licences,
                    name: Acceptance(licence=licence, accepted=day),
                }
            }
        )
        self._write()

    def _change(self, name: str, **update: object) -> None:
        sources = {**self._lock.sources, name: self.source(name).model_copy(update=update)}
        self._lock = self._lock.model_copy(update={"sources": dict(sorted(sources.items()))})
        self._write()

    def _write(self) -> None:
        part = self._path.with_suffix(".tmp")
        with part.open("w", encoding="utf-8") as file:
            file.write(self._lock.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._path)


def read_lock(folder: Path) -> FetchLock:
    """Return what the lock file of a folder says; an empty one where there is none.

    Raises:
        DataError: what is there is no lock file.
    """
    path = folder / LOCK
    try:
        return FetchLock.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return FetchLock()
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no lock file"
        raise DataError(
            f"cannot be used: {reason}",
            code="VT-DATA-046",
            where=str(path),
            remedy="restore it, or remove it to record every file anew",
        ) from error
