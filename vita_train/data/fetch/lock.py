"""The lock file of a target folder: what was fetched, from where, in which version, under which
licence.

It is written before a file gets its final name, so that a file under a final name is always in it;
and a second fetch, on another machine with the lock file in the folder, gets the same bytes or an
error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
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
    """The lock file of a folder, open for changes by any thread.

    A file is noted by a line of a journal, so that thousands of them do not write the whole lock
    file thousands of times; every other change writes the lock file, with what the journal holds,
    whole or not at all. After a kill the journal is read first.

    Args:
        folder: the target folder.
        journal: path of the journal.

    Raises:
        DataError: what is there is no lock file.
    """

    def __init__(self, folder: Path, journal: Path) -> None:
        self._path, self._journal = folder / LOCK, journal
        self._mutex = Lock()
        lock = read_lock(folder)
        self.licences = dict(lock.licences)
        self._sources = {name: _copied(source) for name, source in lock.sources.items()}
        for name, path, file in _replayed(journal):
            self.source(name).files[path] = file
        if journal.exists():
            self._write()

    def source(self, name: str) -> LockedSource:
        """Return what is known of a source."""
        return self._sources.setdefault(name, LockedSource())

    def shared_file(self, path: str, origin: str) -> LockedFile | None:
        """Return a file that any source has at a path, if it is from the same place."""
        for source in self._sources.values():
            file = source.files.get(path)
            if file is not None and file.origin == origin:
                return file
        return None

    def shared_unpacked(self) -> list[tuple[str, Unpacked]]:
        """Return the archives of all sources that were unpacked, with their names."""
        return [item for source in self._sources.values() for item in source.unpacked.items()]

    def add_file(self, name: str, path: str, file: LockedFile) -> None:
        """Note a file of a source."""
        line = json.dumps({"source": name, "path": path, "file": file.model_dump()})
        with self._mutex:
            self.source(name).files[path] = file
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(line + "\n")
                journal.flush()
                os.fsync(journal.fileno())

    def pin(self, name: str, pinned: dict[str, str]) -> None:
        """Note the commits of a source's repositories."""
        self.source(name).pinned.update(pinned)
        self._write()

    def add_unpacked(self, name: str, archive: str, unpacked: Unpacked) -> None:
        """Note an archive of a source as unpacked."""
        self.source(name).unpacked[archive] = unpacked
        self._write()

    def finish(self, name: str) -> None:
        """Note that all of a source is there."""
        self._sources[name] = self.source(name).model_copy(update={"complete": True})
        self._write()

    def accept(self, name: str, licence: Licence) -> None:
        """Note that a licence was accepted."""
        day = datetime.now(UTC).date().isoformat()
        self.licences[name] = Acceptance(licence=licence, accepted=day)
        self._write()

    def _write(self) -> None:
        sources = {
            name: source.model_copy(
                update={
                    "files": dict(sorted(source.files.items())),
                    "unpacked": dict(sorted(source.unpacked.items())),
                }
            )
            for name, source in sorted(self._sources.items())
        }
        lock = FetchLock(licences=dict(sorted(self.licences.items())), sources=sources)
        part = self._path.with_suffix(".tmp")
        with part.open("w", encoding="utf-8") as file:
            file.write(lock.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._path)
        self._journal.unlink(missing_ok=True)


def _copied(source: LockedSource) -> LockedSource:
    """Return a source whose mappings may be changed."""
    return source.model_copy(
        update={
            "pinned": dict(source.pinned),
            "files": dict(source.files),
            "unpacked": dict(source.unpacked),
        }
    )


def _replayed(journal: Path) -> Iterator[tuple[str, str, LockedFile]]:
    """Return what a journal holds; a last line that a kill cut is left out, for the file that it
    is of has no final name yet."""
    try:
        lines = journal.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            note = json.loads(line)
            yield note["source"], note["path"], LockedFile.model_validate(note["file"])
        except (ValueError, KeyError, TypeError):
            return


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
            code="VT-DATA-056",
            where=str(path),
            remedy="restore it, or remove it to record every file anew",
        ) from error
