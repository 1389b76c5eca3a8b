"""What the operating system's errors mean to the reader: make room, fix the settings, or try again
later."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vita_train.errors import StorageError, UserError, VitaError
from vita_train.storage.base import MissingKeyError

_FULL = (errno.ENOSPC, errno.EDQUOT)
#: A disk with less room than this is full for a writer of weights, which asks for much at once.
_FULL_BYTES = 16 << 20
#: A disk with less room than this is full for every writer.
_NOTHING_LEFT = 64 << 10
#: The settings that say which disk is used.
_PLACE = "storage.root or VITA_TRAIN_CACHE"


#: Faults of a name or of the machine that can reach a user from anywhere, and what to do.
_FAULTS: dict[int, str] = {
    errno.EADDRINUSE: "stop the process that uses the port, or choose another port",
    errno.EROFS: "choose a directory that can be written",
    errno.ENAMETOOLONG: "give a shorter name: file systems hold 255 bytes between two slashes",
    errno.ELOOP: "the links lead in a circle: correct them",
    errno.ENOTDIR: "a part of the path is a file: correct the path",
    errno.EISDIR: "this is a directory: give a file in it",
}


def machine_fault(error: BaseException) -> UserError | None:
    """Return what a user is told of an operating system's error that comes from a name they gave or
    from their machine; None where it may be a fault of ours."""
    if not isinstance(error, OSError):
        return None
    if full := as_full_disk(error, Path()):
        return full
    if error.errno not in _FAULTS:
        return None
    what = error.strerror or str(error)
    return UserError(
        what[0].lower() + what[1:],
        code="VT-USE-001",
        where=str(error.filename or ""),
        remedy=_FAULTS[error.errno],
    )


@contextmanager
def machine_faults() -> Iterator[None]:
    """Turn the errors that `machine_fault` knows into ours, and let every other error pass."""
    try:
        yield
    except OSError as error:
        if fault := machine_fault(error):
            raise fault from error
        raise


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours, with the path in them."""
    try:
        yield
    except VitaError:
        raise
    except FileNotFoundError as error:
        raise MissingKeyError(
            "does not exist",
            code="VT-STORE-026",
            where=str(path),
            remedy="run the step that made it again",
        ) from error
    except OSError as error:
        raise _translate(error, path) from error


@contextmanager
def detect_full_disk(folder: Path) -> Iterator[None]:
    """Tell a full disk from other errors of writers that do not say it themselves, as torch and
    safetensors do.

    Raises:
        UserError: the writer failed and the folder's disk is full; what the folder held is removed.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, VitaError) or not _is_full(error, folder):
            raise
        # What was half written has filled the disk, and would keep it full
        shutil.rmtree(folder, ignore_errors=True)
        raise no_space(folder) from error


def as_full_disk(error: Exception, folder: Path) -> UserError | None:
    """Return what a full disk is told as, if that is what an error comes from; ``folder`` where it
    names no file."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return no_space(Path(cause.filename) if isinstance(cause.filename, str) else folder)
    return None


def full_disk(folder: Path) -> UserError | None:
    """Return the error of a disk on which nothing more can be written; None where there is room."""
    free = _free(folder)
    return (
        no_space(folder) if free is not None and (free[0] < _NOTHING_LEFT or free[1] == 0) else None
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        # Libraries wrap the system's error, and not all of them say from what
        error = error.__cause__ or error.__context__


def _free(folder: Path) -> tuple[int, int | None] | None:
    """Return free bytes and inodes of a folder's disk; None for inodes where the file system does
    not count them."""
    # statvfs wants something that is there: the nearest folder above is on the same disk
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    # f_bavail, not f_bfree: part of that is root's alone. btrfs and others have no fixed inodes and
    # say 0
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None


def _is_full(error: Exception, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    free = _free(folder)
    return free is not None and (free[0] < _FULL_BYTES or free[1] == 0)


def _translate(error: OSError, path: Path) -> VitaError:
    where = str(path)
    if error.errno in _FULL:
        return no_space(path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            "permission denied",
            code="VT-USE-101",
            where=where,
            remedy=f"change its owner or mode, or choose another {_PLACE}",
        )
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return UserError(
            "a file stands where a directory is needed, or the other way round",
            code="VT-USE-102",
            where=where,
            remedy=f"remove what is in the way, or choose another {_PLACE}",
        )
    return StorageError(
        f"could not be read or written: {error.strerror or error}",
        code="VT-STORE-002",
        where=where,
        remedy="check the disk and its mount, then run the same command again",
    )


def no_space(path: Path) -> UserError:
    """Return the error of a disk that is full."""
    free = _free(path)
    if free is not None and free[1] == 0:
        return UserError(
            "there are no inodes left on the disk: it holds as many files as it can",
            code="VT-USE-103",
            where=str(path),
            remedy=f"remove files or choose another {_PLACE}, then run the same command again",
        )
    return UserError(
        "no space left on the disk",
        code="VT-USE-104",
        where=str(path),
        remedy=f"free some space or choose another {_PLACE}, then run the same command again",
    )
