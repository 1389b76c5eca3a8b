"""Folders to write in for a while, held while they are used, so that what a kill leaves behind can
be told from them.

Whoever uses one holds a lock on it, which the system drops when its holder dies. So the next
process removes what nobody holds, and never what another one is still writing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vita_train.storage.base import PRIVATE
from vita_train.storage.disk_errors import translate_os_errors

#: Folder of a stage with checkpoint files on their way to the store; the stage's next attempt
#: sweeps it.
STAGING = f"{PRIVATE}staging"


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give an empty folder of this process's own; it is removed in the end.

    Folders of the same name that processes which died left in the same place are removed first.

    Args:
        parent: where; made if it is not there.
        name: what it is for, one word for each use of a place.
    """
    folder, handle = held_folder(parent, name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def held_folder(parent: Path, name: str) -> tuple[Path, int]:
    """Return an empty folder, and the handle that holds it: without an end of its own, until this
    process has ended and the next that asks for such a folder removes it.

    Args:
        parent, name: as of `scratch_folder`.
    """
    folder = parent / f"{PRIVATE}{name}-{uuid.uuid4().hex}"
    with translate_os_errors(folder):
        parent.mkdir(parents=True, exist_ok=True)
        remove_unused(parent.glob(f"{PRIVATE}{name}-*"))
        return folder, _make(folder)


def remove_unused(paths: Iterable[Path]) -> list[Path]:
    """Remove the files and folders that no process holds; return those that were removed.

    What cannot be locked or removed (another user's, a file system without locks) stays.
    """
    removed = []
    for path in paths:
        with suppress(OSError):
            # NOFOLLOW: a link of that name must not have what it leads to removed
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                # Not waiting: whoever holds it is still at work, and it stays
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed.append(path)
            finally:
                os.close(handle)
    return removed


def hold(handle: int, path: Path) -> bool:
    """Lock a new file or folder; False where it was taken for a leftover before it was locked, and
    is gone.

    On a file system without locks it is not held: nothing there can be locked to be removed either.
    """
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)
    # Between making and locking another may have found it unheld
    return path.exists()


def sweep_private(folder: Path) -> list[Path]:
    """Remove unfinished files and scratch folders below a folder that no process holds."""
    found = []
    for place, folders, files in os.walk(folder):
        found += [Path(place) / name for name in (*folders, *files) if name.startswith(PRIVATE)]
        folders[:] = [name for name in folders if not name.startswith(PRIVATE)]
    return remove_unused(path for path in found if path.name != STAGING)


def _make(folder: Path) -> int:
    """Make a folder and return a handle that holds it."""
    while True:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        if hold(handle, folder):
            return handle
        os.close(handle)
