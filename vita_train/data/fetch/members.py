"""Members of archives: written below a folder, or only counted, within limits either way."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from vita_train.data.fetch.patterns import within
from vita_train.errors import DataError

_BUFFER = 1 << 20
#: Files and folders that one archive may hold.
_MOST_MEMBERS = 20_000_000


@dataclass
class Writer:
    """Writes members below a folder and counts them.

    Args:
        folder: where; empty at first.
        where: the archive, for messages.
        limit: bytes that all members together may have.
        report: is told of bytes that were written.
    """

    folder: Path
    where: str
    limit: int
    report: Callable[[int], None]
    files: int = 0
    size: int = 0
    _members: int = 0
    _written: set[str] = field(default_factory=set)

    def make_folder(self, name: str) -> None:
        """Make a folder."""
        self._count()
        if name.strip("/") not in ("", "."):
            (self.folder / self._place(name.rstrip("/"))).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, source: IO[bytes]) -> None:
        """Write a file."""
        self._count()
        place = self._place(name)
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while data := source.read(_BUFFER):
                self.size += len(data)
                if self.size > self.limit:
                    raise self.too_large()
                file.write(data)
                self.report(len(data))
        self.files += 1
        self._written.add(place)

    def link(self, name: str, target: str) -> None:
        """Make a file of another name for one that was written before."""
        self._count()
        place, to = self._place(name), self._target(name, target)
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.folder / to, path)
        self.files += 1
        self._written.add(place)

    def _target(self, name: str, target: str) -> str:
        to = self._place(os.path.normpath(target))
        if to not in self._written:
            raise self.refused(f"holds a link {name!r} to {target!r}, which is no file of it")
        return to

    def too_large(self) -> DataError:
        """Return the error of an archive that outgrows its limit."""
        return self.refused(f"unpacks to more than {self.limit} bytes, which is no archive of data")

    def _place(self, name: str) -> str:
        return within("", name.removeprefix("./"), self.where)

    def _count(self) -> None:
        self._members += 1
        if self._members > _MOST_MEMBERS:
            raise self.refused(f"holds more than {_MOST_MEMBERS} files")

    def refused(self, what: str) -> DataError:
        """Return the error of an archive that does what none of data does."""
        return DataError(
            what, code="VT-DATA-061", where=self.where, remedy="do not use this archive"
        )


class Counter(Writer):
    """Counts members and keeps none."""

    def make_folder(self, name: str) -> None:
        self._count()

    def write(self, name: str, source: IO[bytes]) -> None:
        self._count()
        self._written.add(self._place(name))
        while data := source.read(_BUFFER):
            self.size += len(data)
            if self.size > self.limit:
                raise self.too_large()
        self.files += 1

    def link(self, name: str, target: str) -> None:
        self._count()
        self._target(name, target)
        self._written.add(self._place(name))
        self.files += 1
