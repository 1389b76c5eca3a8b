"""A store in a directory of this machine, or of a volume that many machines mount.

A file is written under a private name beside its place, flushed to disk, and renamed: a reader sees
all of it or nothing, whatever happens to the writer.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from vita_train.storage.base import (
    PRIVATE,
    DamagedError,
    FileRef,
    KeyExistsError,
    check_key,
    whole_range,
)
from vita_train.storage.digest import HashingReader, sha256_file
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.host_cache import known_digest
from vita_train.storage.scratch import hold


class LocalStore:
    """Files below a directory, which is made by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def uri(self) -> str:
        return str(self.root)

    def uri_of(self, key: str) -> str:
        return str(self._path(key))

    def read(self, key: str) -> bytes:
        path = self._path(key)
        with translate_os_errors(path):
            return path.read_bytes()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        path = self._path(key)
        with translate_os_errors(path), path.open("rb") as file:
            file.seek(start)
            return whole_range(file.read(length), start, length, str(path))

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        path = self._path(key)
        with translate_os_errors(path), private_file(path) as (temporary, file):
            file.write(data)
            flush(file)
            if not if_absent:
                os.replace(temporary, path)
            # A link fails where the name is taken, which a rename does not: this is what decides
            # between two writers
            elif not _link(temporary, path) and path.read_bytes() != data:
                raise KeyExistsError(
                    "is there already, written by someone else",
                    code="VT-STORE-027",
                    where=str(path),
                    remedy="do not start one run twice at the same time",
                )
        # The name too must be on disk: else a power cut leaves the bytes without it
        _flush_directory(path.parent)

    def upload(self, path: Path, key: str, *, move: bool = False) -> FileRef:
        target = self._path(key)
        if move and (ref := self._rename(path, target)) is not None:
            return ref
        with (
            translate_os_errors(path),
            path.open("rb") as source,
            translate_os_errors(target),
            private_file(target) as (temporary, file),
        ):
            reader = HashingReader(source)
            shutil.copyfileobj(reader, file, 1 << 20)
            flush(file)
            os.replace(temporary, target)
        _flush_directory(target.parent)
        if move:
            path.unlink(missing_ok=True)
        return FileRef(uri=str(target), sha256=reader.sha256(), bytes=reader.count)

    def _rename(self, path: Path, target: Path) -> FileRef | None:
        """Take over a file by renaming it; None when it lies on another file system."""
        with translate_os_errors(path):
            ref = FileRef(uri=str(target), sha256=sha256_file(path), bytes=path.stat().st_size)
            # Its writer may not have flushed it: a rename of bytes that are not on disk can end as
            # an empty file
            with path.open("rb") as file:
                os.fsync(file.fileno())
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    return None
                raise
        _flush_directory(target.parent)
        return ref

    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        source = self._path(key)
        with (
            translate_os_errors(source),
            source.open("rb") as stored,
            translate_os_errors(path),
            private_file(path) as (temporary, file),
        ):
            reader = HashingReader(stored)
            shutil.copyfileobj(reader, file, 1 << 20)
            if sha256 is not None and reader.sha256() != sha256:
                raise DamagedError(
                    f"has sha256 {reader.sha256()[:12]}, expected {sha256[:12]}",
                    code="VT-STORE-028",
                    where=str(source),
                    remedy="run the step that made it again",
                )
            flush(file)
            os.replace(temporary, path)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with translate_os_errors(path):
            return path.is_file()

    def size(self, key: str) -> int:
        path = self._path(key)
        with translate_os_errors(path):
            return path.stat().st_size

    def version(self, key: str) -> str:
        path = self._path(key)
        with translate_os_errors(path):
            return known_digest(path)

    def list(self, prefix: str = "") -> list[str]:
        # A prefix may end within a name: the folder before it is walked
        start = self.root / prefix.rpartition("/")[0]
        keys = []
        for folder, folders, files in os.walk(start, onerror=_raise_unless_absent):
            # In place, as os.walk asks: it does not go down into what is taken out
            folders[:] = [name for name in folders if not name.startswith(PRIVATE)]
            relative = Path(folder).relative_to(self.root)
            keys += [(relative / name).as_posix() for name in files if not name.startswith(PRIVATE)]
        return sorted(key for key in keys if key.startswith(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {key: self.size(key) for key in self.list(prefix)}

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with translate_os_errors(path):
                path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except OSError:  # not empty, or gone already
                    break

    def sweep(
        self, prefix: str = "", *, older_than: timedelta = timedelta(0), dry_run: bool = False
    ) -> tuple[str, ...]:
        swept = []
        latest = time.time() - older_than.total_seconds() if older_than else math.inf
        for folder, _, files in os.walk(self._path(prefix) if prefix else self.root, topdown=False):
            for path in (Path(folder) / name for name in files):
                key = path.relative_to(self.root)
                if (
                    any(part.startswith(PRIVATE) for part in key.parts)
                    and _last_change(path) <= latest
                ):
                    swept.append(key.as_posix())
                    if not dry_run:
                        with translate_os_errors(path):
                            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                if not dry_run and _last_change(Path(folder)) <= latest:
                    Path(folder).rmdir()
        return tuple(sorted(swept))

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)


@contextmanager
def private_file(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a file beside `path` under a private name; whatever is left under that name in the end
    is removed."""
    temporary = path.with_name(f"{PRIVATE}{uuid.uuid4().hex}")
    file = _open_new(temporary)
    try:
        with file:
            yield temporary, file
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _open_new(path: Path) -> BinaryIO:
    """Open a new file. A delete beside us may remove the folder once it is empty: make it again
    then."""
    # Enough for any number of deletes beside us; without a bound two could go on for ever
    for _ in range(20):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            file = path.open("xb")
            if hold(file.fileno(), path):
                return file
            file.close()
    return path.open("xb")


def _link(temporary: Path, path: Path) -> bool:
    """Give a finished file its name unless the name is taken; say whether it worked."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if path.exists():  # a file system without hard links: looking first is the best there is
            return False
        os.replace(temporary, path)
    return True


def _last_change(path: Path) -> float:
    """Return when a file was last written, or a folder last got or lost one; infinity if it is
    gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    """Make a rename durable; file systems that cannot are left to their own devices."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        with translate_os_errors(Path(error.filename or "")):
            raise error
