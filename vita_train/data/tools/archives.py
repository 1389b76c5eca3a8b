"""Archives in a folder: parts joined, and archives unpacked where they lie. Nothing is removed
before what comes of it was read to its last byte."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vita_train.data.fetch.archives import Archive, archives_among
from vita_train.data.fetch.folder import need_room, staging_path, sync, translated
from vita_train.data.fetch.joined import JoinedFile
from vita_train.data.fetch.unpack import merge, survey, unpack
from vita_train.errors import DataError

_BUFFER = 16 << 20


@dataclass(frozen=True)
class Joined:
    """An archive that was joined from its parts."""

    name: str
    parts: int
    files: int
    """That it holds."""
    sha256: str


@dataclass(frozen=True)
class Extracted:
    """What became of one archive."""

    name: str
    files: int = 0
    fault: str = ""
    """Why it is still there; empty if it was unpacked."""


def archives_in(folder: Path) -> list[Archive]:
    """Return the archives that lie in a folder, parts in natural order, by name.

    Raises:
        DataError: a part is missing between others.
    """
    return archives_among(path.name for path in folder.iterdir() if path.is_file())


def join_parts(folder: Path, names: Sequence[str] = ()) -> list[Joined]:
    """Join the parts of archives; parts are removed once the whole was read back, as an archive and
    byte for byte.

    Args:
        folder: where parts lie, and the whole goes.
        names: of archives, without their endings; none takes all that are in parts.

    Raises:
        DataError: a part is missing or short, or a name has no parts.
        UserError: there is no room for the whole beside its parts.
    """
    split = [archive for archive in archives_in(folder) if len(archive.parts) > 1]
    if absent := set(names) - {_stem(archive) for archive in split}:
        raise DataError(
            f"there are no parts of {', '.join(sorted(absent))}",
            code="VT-DATA-120",
            where=str(folder),
            remedy="name archives without their ending; parts are NAME.tar.gz.part_000 or "
            "NAME.tar.gz_part0",
        )
    wanted = [archive for archive in split if not names or _stem(archive) in names]
    with translated(folder):
        return [_join(archive, folder) for archive in wanted]


def extract_all(folder: Path, *, keep: bool = False) -> list[Extracted]:
    """Unpack every archive of a folder into it, in order of their names. One that is damaged stays,
    nothing of it appears, and the others are unpacked all the same.

    Args:
        folder: where.
        keep: leave unpacked archives too.

    Raises:
        DataError: a part of an archive is missing.
        UserError: the disk refuses what is written.
    """
    with translated(folder):
        return [_extract(archive, folder, keep=keep) for archive in archives_in(folder)]


def _stem(archive: Archive) -> str:
    return archive.name.partition(".")[0]


def _join(archive: Archive, folder: Path) -> Joined:
    with JoinedFile([folder / part for part in archive.parts]) as source:
        need_room(folder, source.starts[-1], f"the parts of {archive.name}")
    files, _ = survey(archive, folder)
    part, whole = folder / f"{archive.name}.joining", folder / archive.name
    try:
        wanted = hashlib.sha256()
        with (
            JoinedFile([folder / name for name in archive.parts]) as source,
            part.open("wb") as target,
        ):
            while data := source.read(_BUFFER):
                wanted.update(data)
                target.write(data)
        sync(part)
        with part.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        if digest != wanted.hexdigest():
            raise DataError(
                "what was written is not what the parts hold",
                code="VT-DATA-121",
                where=str(whole),
                remedy="the disk is not to be trusted; the parts are still there",
            )
        os.replace(part, whole)
    finally:
        part.unlink(missing_ok=True)
    for name in archive.parts:
        (folder / name).unlink()
    return Joined(archive.name, len(archive.parts), files, digest)


def _extract(archive: Archive, folder: Path, *, keep: bool) -> Extracted:
    staging = staging_path(folder, archive.name)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        files, _ = unpack(archive, folder, staging, lambda _: None)
        merge(staging, folder)
    except DataError as error:
        return Extracted(archive.name, fault=str(error))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if not keep:
        for part in archive.parts:
            (folder / part).unlink()
    return Extracted(archive.name, files)
