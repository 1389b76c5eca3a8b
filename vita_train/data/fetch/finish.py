"""What comes after the bytes: archives, packages, and files that only a person gets."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from vita_train.data.catalogue.entry import DebianPackage, Entry, Form
from vita_train.data.fetch.archives import Archive, archives_among
from vita_train.data.fetch.debian import fetch_package
from vita_train.data.fetch.folder import staging_path
from vita_train.data.fetch.lock import LockFile, Unpacked
from vita_train.data.fetch.origin import RemoteFile
from vita_train.data.fetch.progress import Progress
from vita_train.data.fetch.unpack import merge, unpack, unpack_inside
from vita_train.errors import UserError


def finish(
    entry: Entry,
    files: Sequence[RemoteFile],
    lock: LockFile,
    root: Path,
    *,
    keep_archives: bool,
) -> int:
    """Unpack what is to be unpacked, fetch packages, look for what a person was to bring.

    Args:
        entry: whose files are there.
        files: of it.
        lock: of the target folder.
        root: the target folder.
        keep_archives: leave archives where they are.

    Returns:
        Number of archives that were unpacked now.

    Raises:
        DataError: an archive is damaged or unsafe.
        UserError: files are missing that only a person gets.
    """
    name = entry.name
    by_folder: dict[tuple[str, str], list[str]] = {}
    for file in files:
        if file.unpack is not None:
            by_folder.setdefault((file.unpack, file.inside), []).append(file.path)
    count = 0
    for (folder, inside), paths in sorted(by_folder.items()):
        for archive in archives_among(paths):
            count += _unpack_once(name, archive, folder, inside, lock, root)
            if not keep_archives:
                for part in archive.parts:
                    (root / part).unlink(missing_ok=True)
    for place in entry.places:
        if isinstance(place, DebianPackage) and not lock.source(name).complete:
            fetch_package(place, root, staging_path(root, place.package))
        elif isinstance(place, Form):
            _check_form(name, place, root)
    lock.finish(name)
    return count


def _unpack_once(
    name: str, archive: Archive, folder: str, inside: str, lock: LockFile, root: Path
) -> bool:
    digests = {part: lock.source(name).files[part].sha256 for part in archive.parts}
    for other, done in lock.shared_unpacked():
        if (other, done.parts, done.to) == (archive.name, digests, folder):
            lock.add_unpacked(name, archive.name, done)
            return False
    staging = staging_path(root, archive.name)
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    progress = Progress(f"unpack {archive.name}", None)
    try:
        with progress.shown():
            files, count = unpack(archive, root, staging, progress.add)
            if inside:
                more = unpack_inside(staging, inside, progress.add)
                files, count = files + more[0], count + more[1]
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    merge(staging, root / folder)
    lock.add_unpacked(
        name, archive.name, Unpacked(to=folder, parts=digests, files=files, bytes=count)
    )
    return True


def _check_form(name: str, place: Form, root: Path) -> None:
    folder = root / place.to
    there = (
        all((folder / path).exists() for path in place.expect)
        if place.expect
        else folder.is_dir() and any(folder.iterdir())
    )
    if not there:
        raise UserError(
            f"{name} has files that only you can get: {place.about}",
            code="VT-USE-181",
            where=place.url,
            remedy=f"put them in {folder}, then run the same command again",
        )
