"""Files and folders of this machine, git checkouts among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vita_train.data.catalogue.entry import LocalFiles
from vita_train.data.fetch.lfs import refuse_pointers
from vita_train.data.fetch.origin import BUFFER, Body, RemoteFile
from vita_train.data.fetch.patterns import chosen, within
from vita_train.errors import UserError


@dataclass(frozen=True)
class LocalOrigin:
    """A file of this machine."""

    path: Path

    @property
    def host(self) -> str:
        return "this machine"

    @property
    def where(self) -> str:
        return self.path.as_uri()

    def open(self, start: int, validator: str) -> Body:
        try:
            stat = self.path.stat()
            version = f"{stat.st_size}-{stat.st_mtime_ns}"
            begin = start if validator == version and start <= stat.st_size else 0
            return Body(begin, stat.st_size, version, _chunks(self.path, begin))
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def probe(self) -> int | None:
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise _unreadable(self.path, error) from error


def _chunks(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while data := file.read(BUFFER):
            yield data


def resolve_local(place: LocalFiles) -> list[RemoteFile]:
    """Return the regular files that a place names; links and special files are left out, and so is
    what git keeps for itself.

    Raises:
        UserError: there is nothing, or it cannot be read.
        DataError: there are pointers of Git LFS in place of files.
    """
    root = Path(place.path).expanduser().absolute()
    if not root.exists():
        raise UserError(
            "there is no such file or folder",
            code="VT-USE-198",
            where=str(root),
            remedy="correct the path",
        )
    files = {root.name: root} if root.is_file() else dict(_walk(root))
    names = chosen(files, place.files, str(root))
    refuse_pointers((files[name] for name in names), root)
    return [
        RemoteFile(
            within(place.to, name, str(root)),
            LocalOrigin(files[name]),
            unpack=place.unpack,
            inside=place.inside,
        )
        for name in names
    ]


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error)

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix(), path


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot be read: {error.strerror}",
        code="VT-USE-199",
        where=str(path),
        remedy="correct the path, or change the file's owner or mode",
    )
