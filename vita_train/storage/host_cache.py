"""What the processes of one machine share: its cache folder, locks, and digests of large files."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vita_train.errors import VitaError
from vita_train.storage.digest import sha256_file
from vita_train.storage.disk_errors import translate_os_errors

#: Folder of what a machine keeps for all runs: media and shards that were fetched, digests of large
#: files, local copies of runs in a store. ``~/.cache/vita-train`` unless set.
CACHE = "VITA_TRAIN_CACHE"
#: Bytes from which a file's digest is worth keeping.
_LARGE = 64 << 20


def cache_dir() -> Path:
    """Return this node's cache: `CACHE`, else ``~/.cache/vita-train``."""
    named = os.environ.get(CACHE)
    return Path(named).expanduser().absolute() if named else Path.home() / ".cache" / "vita-train"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this node; the system drops it when its holder dies."""
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        # flock, which goes with the open file: fcntl's own locks are lost when any handle of it is
        # closed
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def known_digest(path: Path) -> str:
    """Return the sha256 of a file. A large one is read once on this node for as long as it stays as
    it is.

    Eight ranks that ask for the weights of a 7B model then wait for the first, instead of reading
    them eight times; and a stage that goes on after it was stopped does not read them at all. As it
    is means size, modification time and inode. Without a cache folder that can be written to, every
    process reads for itself.
    """
    # Before it is read: what changes meanwhile is noted under the old times, and read again next
    # time
    stat = path.stat()
    if stat.st_size < _LARGE:
        return sha256_file(path)
    place = str(path.absolute())
    file = [place, stat.st_size, stat.st_mtime_ns, stat.st_ino]
    note = cache_dir() / "digests" / f"{hashlib.sha256(place.encode()).hexdigest()}.json"
    try:
        with locked(note.with_suffix(".lock")), translate_os_errors(note):
            if (known := _noted(note, file)) is None:
                known = sha256_file(path)
                partial = note.with_suffix(".partial")
                partial.write_text(json.dumps({"file": file, "sha256": known}), encoding="utf-8")
                os.replace(partial, note)
            return known
    except VitaError:
        return sha256_file(path)


def _noted(note: Path, file: list[object]) -> str | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = found.get("sha256") if isinstance(found, dict) and found.get("file") == file else None
    return known if isinstance(known, str) else None
