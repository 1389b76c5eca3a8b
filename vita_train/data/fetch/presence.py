"""Which files are in the target folder already."""

from __future__ import annotations

from pathlib import Path

from vita_train.data.fetch.folder import part_path, to_final_name
from vita_train.data.fetch.lock import LockedFile, LockFile
from vita_train.data.fetch.origin import RemoteFile
from vita_train.errors import DataError, UserError
from vita_train.storage.digest import sha256_file


def is_there(file: RemoteFile, name: str, lock: LockFile, root: Path, *, update: bool) -> bool:
    """Say whether a file need not be fetched, and take up one that a kill left between lock and
    final name.

    Args:
        file: of a source.
        name: the source's.
        lock: of the target folder.
        root: the target folder.
        update: whether another version than that of the lock file is wanted.

    Raises:
        UserError: another file stands in its place.
        DataError: its publisher states another checksum than the lock file.
    """
    locked, path = lock.source(name).files.get(file.path), root / file.path
    if locked is None and (shared := lock.shared_file(file.path, file.origin.where)):
        lock.add_file(name, file.path, shared)
        locked = shared
    if update and locked is not None and locked.sha256 != file.sha256:
        return False
    if locked is not None and file.sha256 not in (None, locked.sha256):
        raise changed(file.path, str(file.sha256), locked.sha256)
    if locked is None:
        if path.exists():
            return _adopt(file, name, lock, path)
        return False
    if any(file.path in unpacked.parts for _, unpacked in lock.shared_unpacked()):
        return True
    if path.is_file():
        if path.stat().st_size == locked.bytes:
            return True
        raise UserError(
            f"has {path.stat().st_size} bytes, {locked.bytes} were fetched",
            code="VT-USE-201",
            where=str(path),
            remedy="remove it to fetch it again",
        )
    part = part_path(root, file.path)
    if (
        part.is_file()
        and part.stat().st_size == locked.bytes
        and sha256_file(part) == locked.sha256
    ):
        to_final_name(part, path)
        return True
    return False


def _adopt(file: RemoteFile, name: str, lock: LockFile, path: Path) -> bool:
    """Take a file that someone else put there, if it is the one that would be fetched."""
    digest = sha256_file(path) if path.is_file() else ""
    if file.sha256 is None or digest != file.sha256:
        raise UserError(
            "something stands there that this command did not fetch",
            code="VT-USE-202",
            where=str(path),
            remedy="move it away, or choose another folder by --to",
        )
    lock.add_file(
        name,
        file.path,
        LockedFile(
            origin=file.origin.where,
            bytes=path.stat().st_size,
            sha256=digest,
            verified="published",
        ),
    )
    return True


def changed(where: str, now: str, before: str) -> DataError:
    """Return the error of a file that is not the one that was fetched first."""
    return DataError(
        f"its sha256 is {now} now, and was {before} when it was fetched first",
        code="VT-DATA-059",
        where=where,
        remedy="its publisher changed it; take the new version by --update",
    )
