"""Files of a store as local files: where they are when they are local, through a cache of this node
when not.

The cache is keyed by sha256 and holds only files that were verified before they got their name, so
that any number of processes may share it and a process that dies leaves nothing that could be taken
for a file. What it left half written is removed by the next that wants the same.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from vita_train.console import warn
from vita_train.storage.base import (
    PRIVATE,
    DamagedError,
    FileRef,
    MissingKeyError,
    is_local,
    local_path,
)
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.factory import open_file
from vita_train.storage.host_cache import cache_dir, known_digest, locked

#: Local files whose hash this process has checked: path, size, modification time, sha256.
_verified: set[tuple[str, int, int, str]] = set()


def fetch_file(ref: FileRef, *, endpoint: str | None = None) -> Path:
    """Return a local path that holds exactly the bytes of `ref`.

    A file on this machine is used where it lies. One on S3 is downloaded once per node, whoever
    asks first.

    Raises:
        MissingKeyError: the file is gone.
        DamagedError: its size or sha256 is another one.
        StorageError, UserError: as `Store` says.
    """
    if is_local(ref.uri):
        path = local_path(ref.uri)
        _verify(path, ref)
        return path
    # By content: the same weights under two addresses are fetched once. The name stays, as its
    # ending tells the kind
    folder = cache_dir() / "files" / ref.sha256[:2] / ref.sha256
    path = folder / ref.uri.rpartition("/")[2]
    # Without the lock first: most calls find it there
    if path.is_file() and _is_whole(path, ref):
        return path
    with locked(folder.with_suffix(".lock")):
        if not _is_whole(path, ref):
            remove_unfinished(folder)
            store, key = open_file(ref.uri, endpoint=endpoint)
            store.download(key, path, sha256=ref.sha256)
    return path


def remove_unfinished(folder: Path) -> None:
    """Remove what downloads into a folder that were killed have left. Whoever calls this holds the
    folder's lock."""
    for path in folder.rglob(f"{PRIVATE}*"):
        with suppress(OSError):
            path.unlink()


def remove_beside(folder: Path) -> None:
    """Remove what lies beside a folder, but for what has a name that begins with the folder's."""
    for path in folder.parent.glob("*"):
        if not path.name.startswith(folder.name):
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                path.unlink()


def _verify(path: Path, ref: FileRef) -> None:
    if not path.is_file():
        raise MissingKeyError(
            "does not exist",
            code="VT-STORE-015",
            where=str(path),
            remedy="run the step that made it again",
        )
    with translate_os_errors(path):
        stat = path.stat()
        seen = (str(path), stat.st_size, stat.st_mtime_ns, ref.sha256)
        if stat.st_size != ref.bytes:
            raise DamagedError(
                f"has {stat.st_size} bytes, expected {ref.bytes}",
                code="VT-STORE-016",
                where=str(path),
                remedy="run the step that made it again",
            )
        # Hashed once a process, and known_digest remembers beyond it, as long as size and time are
        # the same
        if seen not in _verified and known_digest(path) != ref.sha256:
            raise DamagedError(
                "does not hold the bytes it was stored with (sha256 differs)",
                code="VT-STORE-017",
                where=str(path),
                remedy="run the step that made it again",
            )
    _verified.add(seen)


def _is_whole(path: Path, ref: FileRef) -> bool:
    """Say whether a cached file is the one wanted; one that is not any more is removed, and that is
    told."""
    try:
        _verify(path, ref)
    except MissingKeyError:
        return False
    except DamagedError as error:
        warn(f"{path} in this node's cache {error.what}: fetched again")
        with suppress(OSError):
            path.unlink()
        return False
    return True
