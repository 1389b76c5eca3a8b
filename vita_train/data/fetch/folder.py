"""The target folder: whether it can be written, whether there is room, and what stands in it while
a fetch is under way."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from vita_train.data.fetch.progress import size
from vita_train.errors import UserError
from vita_train.storage.host_cache import locked

#: Folder that `data fetch` fills and that sources of kind ``catalogue`` read, where neither the
#: command line nor the recipe names one.
DATA = "VITA_TRAIN_DATA"
#: Folder of what is not finished: part files, and archives on their way to their place.
STATE = ".vita-fetch"
#: Bytes that are left free on the disk.
_MARGIN = 64 << 20


def data_folder() -> Path | None:
    """Return the folder that VITA_TRAIN_DATA names, if it does."""
    named = os.environ.get(DATA)
    return Path(named).expanduser().absolute() if named else None


def part_path(root: Path, path: str) -> Path:
    """Return the part file of a file of the target tree."""
    return root / STATE / f"{sha256(path.encode()).hexdigest()[:32]}.part"


def journal_path(root: Path) -> Path:
    """Return the journal of the lock file."""
    return root / STATE / "journal.jsonl"


def staging_path(root: Path, archive: str) -> Path:
    """Return the folder that an archive is unpacked in."""
    return root / STATE / f"{sha256(archive.encode()).hexdigest()[:32]}.unpack"


@contextmanager
def opened(root: Path) -> Iterator[None]:
    """Make the target folder, try that it can be written, and hold it: another fetch to it waits.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        (root / STATE).mkdir(parents=True, exist_ok=True)
        probe = root / STATE / f"probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"1")
        probe.unlink()
    except OSError as error:
        raise refused(error, root) from error
    with locked(root / STATE / "lock"):
        yield


def need_room(root: Path, count: int, what: str) -> None:
    """Check that so many bytes fit on the disk.

    Raises:
        UserError: they do not.
    """
    free = shutil.disk_usage(root).free
    if count + _MARGIN > free:
        raise UserError(
            f"{what} need {size(count)}, and {size(free)} are free on the disk",
            code="VT-USE-182",
            where=str(root),
            remedy=f"free {size(count + _MARGIN - free)}, or choose a folder on another disk "
            "by --to",
        )


@contextmanager
def translated(root: Path) -> Iterator[None]:
    """Turn what the disk refuses into our errors.

    Raises:
        UserError: it is full, or may not be written.
    """
    try:
        yield
    except OSError as error:
        raise refused(error, root) from error


def refused(error: OSError, root: Path) -> UserError:
    """Return the error of a disk that refuses."""
    where = str(error.filename or root)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            "the disk is full; what came is kept",
            code="VT-USE-183",
            where=where,
            remedy="free some space, then run the same command again; it continues where it "
            "stopped",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            "permission denied",
            code="VT-USE-184",
            where=where,
            remedy="change the owner or mode of the folder, or choose another one by --to; do not "
            "run as root for it",
        )
    return UserError(
        f"cannot be written: {error.strerror or error}",
        code="VT-USE-185",
        where=where,
        remedy="remove what is in the way, or choose another folder by --to",
    )


def sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_final_name(part: Path, path: Path) -> None:
    """Give a part file that is whole its name in the target tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)
    part.with_suffix(".json").unlink(missing_ok=True)
