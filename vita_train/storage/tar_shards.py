"""Folders of many files as a few tar shards in a store, and back: how data travel from one machine
to others.

Shards are plain tar. Files stand in sorted order, without times and owners, so the same folder
gives the same bytes. A file beside the folder holds the digest of its shards, and size and time of
the last change of every file, so that a folder is fetched once per node, whoever asks first, and
again when a file of it was changed or its step, done anew, made others of the same inputs.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from vita_train.console import progress, warn
from vita_train.storage.base import DamagedError, FileRef, Store, check_key
from vita_train.storage.digest import digest_of, sha256_file
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.factory import open_file
from vita_train.storage.host_cache import locked
from vita_train.storage.local import LocalStore
from vita_train.storage.scratch import scratch_folder

_SHARD_BYTES = 256 * 2**20
_NAME = "shard-"
#: First time that files of shards get, in nanoseconds: the first of January 2000.
_FIRST_TIME = 946_684_800 * 10**9


def publish_tree(folder: Path, store: Store, prefix: str) -> dict[str, FileRef]:
    """Store a folder below a prefix and return its shards, as ``files`` of a manifest.

    Args:
        folder: regular files only; it counts as fetched on this node from now on.
        store: where to.
        prefix: keys below it that this folder does not use are deleted.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    groups = list(_groups(files))
    shards: dict[str, FileRef] = {}
    with translate_os_errors(folder), scratch_folder(folder.parent, folder.name) as scratch:
        for number, group in enumerate(progress(groups, len(groups), f"storing {folder.name}")):
            path = scratch / f"{_NAME}{number:05d}.tar"
            pack(path, folder, group)
            # By content: a shard that others are fetching is never replaced under them
            shards[path.stem] = store.upload(
                path, f"{prefix}/{sha256_file(path)[:16]}-{path.name}", move=True
            )
            path.unlink(missing_ok=True)
            _set_times(group, shards[path.stem].sha256)
    kept = {ref.uri for ref in shards.values()}
    # After all are stored: until then the old ones are what a manifest names
    store.delete([key for key in store.list(f"{prefix}/") if store.uri_of(key) not in kept])
    _write_marker(folder, _digest(shards))
    return shards


def fetch_tree(files: Mapping[str, FileRef], folder: Path, *, endpoint: str | None = None) -> Path:
    """Return a folder that holds what a step published, fetched if this node does not have it.

    A step without shards among its files belongs to a store on this machine: the folder is taken as
    it is.

    Raises:
        MissingKeyError, DamagedError: a shard is gone or not the one that was published.
        StorageError, UserError: as `Store` says.
    """
    shards = {name: ref for name, ref in files.items() if name.startswith(_NAME)}
    digest = _digest(shards)
    if not shards or _is_here(folder, digest):
        return folder
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not _is_here(folder, digest):
            # First: a kill from here on leaves a folder that nothing vouches for
            _marker(folder).unlink(missing_ok=True)
            _fetch(shards, folder, endpoint)
            _write_marker(folder, digest)
    return folder


def _fetch(shards: Mapping[str, FileRef], folder: Path, endpoint: str | None) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with translate_os_errors(partial):
            (partial / "tree").mkdir(parents=True)
            for name in progress(sorted(shards), len(shards), f"fetching {folder.name}"):
                store, key = open_file(shards[name].uri, endpoint=endpoint)
                path = partial / f"{name}.tar"
                store.download(key, path, sha256=shards[name].sha256)
                _set_times(unpack(path, partial / "tree"), shards[name].sha256)
                path.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial / "tree", folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _groups(files: list[Path]) -> Iterator[list[Path]]:
    """Yield the files in order, as many at a time as make a shard."""
    group: list[Path] = []
    size = 0
    for path in files:
        length = path.stat().st_size
        if group and size + length > _SHARD_BYTES:
            yield group
            group, size = [], 0
        group.append(path)
        size += length
    if group:
        yield group


def pack(path: Path, folder: Path, files: Sequence[Path]) -> None:
    """Write files of a folder to a tar, without times and owners."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            # A fresh entry has time 0, owner 0 and mode 644, whatever the file's are
            entry = tarfile.TarInfo(file.relative_to(folder).as_posix())
            entry.size = file.stat().st_size
            with file.open("rb") as stream:
                archive.addfile(entry, stream)


def unpack(path: Path, folder: Path) -> list[Path]:
    """Unpack what `pack` wrote, and return the files.

    Raises:
        DamagedError: an entry is no regular file.
    """
    files = []
    with tarfile.open(path) as archive:
        for entry in archive:
            if not entry.isfile():
                raise DamagedError(
                    f"{entry.name!r} is no regular file", code="VT-STORE-034", where=str(path)
                )
            # By hand, not extractall: names are checked as keys, and no links are made
            target = folder / check_key(entry.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with cast(IO[bytes], archive.extractfile(entry)) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
            files.append(target)
    return files


def _set_times(files: Sequence[Path], sha256: str) -> None:
    """Give the files of a shard a time that follows from its bytes: the same on every machine, and
    another one where anything in the shard is another."""
    time = _FIRST_TIME + int(sha256[:12], 16)
    for file in files:
        os.utime(file, ns=(time, time), follow_symlinks=False)


def _digest(shards: Mapping[str, FileRef]) -> str:
    return digest_of({name: ref.sha256 for name, ref in shards.items()})


def _marker(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.digest")


def _write_marker(folder: Path, digest: str) -> None:
    """Note what a folder holds."""
    LocalStore(folder.parent).write(
        _marker(folder).name, json.dumps({"digest": digest, "files": _noted(folder)}).encode()
    )


def _noted(folder: Path) -> dict[str, list[Any]]:
    """Return {path in the folder: [bytes, time of the last change in ns]}."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            found[path.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    return found


def _is_here(folder: Path, digest: str) -> bool:
    """Say whether a folder holds what was fetched or published; whether it was changed since is
    told."""
    try:
        noted = json.loads(_marker(folder).read_text(encoding="utf-8"))
        if not folder.is_dir() or noted["digest"] != digest:
            return False
        before, now = dict(noted["files"]), _noted(folder)
        changed = sorted(
            name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if changed:
        warn(
            f"{folder / changed[0]} was changed since it was fetched"
            f"{f', and {len(changed) - 1} more' if len(changed) > 1 else ''}: fetched again"
        )
    return not changed
