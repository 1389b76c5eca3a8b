"""Archives unpacked: safely, within limits, whole or not at all.

Only regular files and folders are made. A link inside an archive to a file that it has brought
before becomes that file; every other link, and every device, is refused, and so is a name that
leads out of the folder. What an archive unpacks to stands in a folder of its own until all of it is
there.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from vita_train.data.fetch.archives import Archive, archives_among
from vita_train.data.fetch.joined import JoinedFile
from vita_train.data.fetch.members import Counter, Writer
from vita_train.data.fetch.patterns import chosen
from vita_train.errors import DataError

_BUFFER = 1 << 20
#: An archive may become this many times larger, and this much in any case.
_RATIO = 200
_ALWAYS = 256 << 20
#: What a damaged archive makes the libraries raise.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    struct.error,
    NotImplementedError,
    ValueError,
    RuntimeError,
)


def unpack(
    archive: Archive, root: Path, staging: Path, report: Callable[[int], None]
) -> tuple[int, int]:
    """Unpack an archive into ``staging``, an empty folder.

    Args:
        archive: its parts are relative to ``root``.
        root: target folder.
        staging: where to; what is there after an error is to be removed.
        report: is told of bytes that were written.

    Returns:
        Number of files and their bytes.

    Raises:
        DataError: it is damaged or does what no archive of data does.
        OSError: the disk refuses it.
    """
    return _read(archive, root, Writer(staging, str(root / archive.name), 0, report))


def survey(archive: Archive, root: Path) -> tuple[int, int]:
    """Read an archive to its last byte and write nothing; otherwise as `unpack`."""
    nowhere = root / "nowhere"
    return _read(archive, root, Counter(nowhere, str(root / archive.name), 0, lambda _: None))


def _read(archive: Archive, root: Path, writer: Writer) -> tuple[int, int]:
    where = writer.where
    with JoinedFile([root / part for part in archive.parts]) as joined:
        writer.limit = max(_ALWAYS, _RATIO * joined.starts[-1])
        source = BufferedReader(joined, _BUFFER)
        try:
            if archive.kind == "zip":
                _unzip(joined, source, writer)
            elif archive.kind == "tar":
                _untar(source, archive.compression, writer)
            else:
                with _decompressed(source, archive.compression) as plain:
                    writer.write(Path(archive.name).name.rpartition(".")[0], plain)
        except _DAMAGED as error:
            raise _damaged(where, error) from error
        except OSError as error:
            if error.errno is None:  # of a decompressor, not of the disk
                raise _damaged(where, error) from error
            raise
    return writer.files, writer.size


def unpack_inside(folder: Path, pattern: str, report: Callable[[int], None]) -> tuple[int, int]:
    """Unpack archives below a folder where they lie, and remove them.

    Args:
        folder: what an archive was unpacked to.
        pattern: of their paths; ``*`` crosses slashes.
        report: is told of bytes that were written.

    Returns:
        How many files there are more, and their bytes more.

    Raises:
        DataError: none fits the pattern, or as of `unpack`.
    """
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = size = 0
    for archive in archives_among(chosen(paths, (pattern,), str(folder))):
        place = folder / archive.name
        staging = place.with_name(f"{place.name}.unpacked")
        more = unpack(archive, folder, staging, report)
        for part in archive.parts:
            files, size = files - 1, size - (folder / part).stat().st_size
            (folder / part).unlink()
        merge(staging, place.parent)
        files, size = files + more[0], size + more[1]
    return files, size


def _damaged(where: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(
        f"the archive is damaged or of another kind than its name says: {reason}",
        code="VT-DATA-062",
        where=where,
        remedy="remove it and run the same command again; if it stays so, its source is broken",
    )


def _unzip(joined: JoinedFile, source: Any, writer: Writer) -> None:
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        _locate(members, joined, archive)
        stated = sum(member.file_size for member in members)
        if stated > writer.limit:
            raise writer.refused(f"says that it unpacks to {stated} bytes")
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir():
                writer.make_folder(member.filename)
            elif kind not in (0, stat.S_IFREG):
                raise writer.refused(f"holds {member.filename!r}, a link or a device")
            elif member.flag_bits & 1:
                raise writer.refused(f"{member.filename!r} in it is encrypted")
            else:
                with archive.open(member) as file:
                    writer.write(member.filename, file)


def _locate(members: list[zipfile.ZipInfo], joined: JoinedFile, archive: Any) -> None:
    """Correct the offsets of an archive that Info-ZIP split: there they count from the part that a
    member begins in.

    zipfile takes the whole for one part, and adds to every offset what it thinks stands before the
    archive.
    """
    if not any(member.volume for member in members):
        return
    joined.seek(joined.starts[-1] - 22)
    end = joined.read(22) or b""
    if end[:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("a split archive with a comment")
    added = archive.start_dir - struct.unpack("<L", end[16:20])[0]
    for member in members:
        member.header_offset += joined.starts[member.volume] - added


def _untar(source: Any, compression: str, writer: Writer) -> None:
    with (
        _decompressed(source, compression) as plain,
        tarfile.open(fileobj=plain, mode="r|", errorlevel=2) as archive,
    ):
        for member in archive:
            if member.isdir():
                writer.make_folder(member.name)
            elif member.isreg():
                file = archive.extractfile(member)
                if file is None:
                    raise writer.refused(f"{member.name!r} in it cannot be read")
                writer.write(member.name, file)
            elif member.issym():
                writer.link(
                    member.name, os.path.join(os.path.dirname(member.name), member.linkname)
                )
            elif member.islnk():
                writer.link(member.name, member.linkname)
            else:
                raise writer.refused(f"holds {member.name!r}, a device or a pipe")
        while plain.read(_BUFFER):  # what follows the last member: the checksum of the whole
            pass


@contextmanager
def _decompressed(source: Any, compression: str) -> Iterator[Any]:
    if not compression:
        yield source
        return
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.PythonFile(source, mode="r"), compression) as plain:
        yield plain


def merge(staging: Path, target: Path) -> None:
    """Move what was unpacked to its place; files that are there are replaced. It may be repeated
    after it was stopped."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(staging.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            merge(entry, place)
        elif place.is_dir() or (entry.is_dir() and place.exists()):
            raise DataError(
                "a file stands where the archive has a folder, or the other way round",
                code="VT-DATA-063",
                where=str(place),
                remedy="remove it, then run the same command again",
            )
        else:
            os.replace(entry, place)
    shutil.rmtree(staging, ignore_errors=True)
