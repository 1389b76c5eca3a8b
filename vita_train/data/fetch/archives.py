"""Archives, told by their names: which files are parts of one, and of what kind it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vita_train.errors import DataError

Kind = Literal["zip", "tar", "gz", "zst"]
_KINDS: tuple[tuple[str, Kind, str], ...] = (
    # ending, kind, compression of a tar
    (".zip", "zip", ""),
    (".tar", "tar", ""),
    (".tar.gz", "tar", "gzip"),
    (".tgz", "tar", "gzip"),
    (".tar.zst", "tar", "zstd"),
    (".tzst", "tar", "zstd"),
    (".tar.bz2", "tar", "bz2"),
    (".gz", "gz", "gzip"),
    (".zst", "zst", "zstd"),
)
#: ``a.zip.001``, ``a.tar.gz.part_003``, ``a.tar.part-aa``, ``a.tar.gz_part12``, ``a.tar.gzaa``.
_PART = re.compile(
    r"(?P<stem>.+?\.(?:zip|tar|tar\.gz|tgz|tar\.zst|tzst|tar\.bz2))"
    r"(?:[._-]?part[._-]?(?P<word>\d+|[a-z]{2,3})|\.(?P<digits>\d{2,4})|(?P<letters>[a-z]{2}))",
    re.IGNORECASE,
)
#: Parts of Info-ZIP: ``a.z01``, ``a.z02``, ..., ``a.zip``, which is the last.
_ZIP_PART = re.compile(r"(?P<stem>.+)\.z(?P<number>\d{2,3})", re.IGNORECASE)


@dataclass(frozen=True)
class Archive:
    """One archive."""

    name: str
    """Path without the suffix of its parts."""
    kind: Kind
    compression: str
    parts: tuple[str, ...]
    """Paths of its files in order."""


def archives_among(paths: Iterable[str]) -> list[Archive]:
    """Return the archives among files, each with its parts in natural order (part 10 after part
    2), sorted by name.

    Raises:
        DataError: parts are missing between others.
    """
    known = set(paths)
    groups: dict[str, dict[tuple[int, str], str]] = {}
    single = set(known)
    for path in sorted(known):
        if found := _ZIP_PART.fullmatch(path):
            last = f"{found['stem']}.zip"
            if last not in known:
                raise DataError(
                    "parts of a zip are there, but not its last one",
                    code="VT-DATA-071",
                    where=last,
                    remedy="fetch all parts: .z01, .z02 and so on, and .zip",
                )
            groups.setdefault(last, {})[(int(found["number"]), "")] = path
            single -= {path, last}
        elif found := _PART.fullmatch(path):
            suffix = found["word"] or found["digits"] or found["letters"]
            groups.setdefault(found["stem"], {})[_order(suffix)] = path
            single.discard(path)
    archives = []
    for name, parts in groups.items():
        _check_complete(name, sorted(parts))
        files = [parts[key] for key in sorted(parts)]
        if name in known:  # the last of Info-ZIP's
            files.append(name)
        archives.append(_archive(name, tuple(files)))
    archives += [_archive(path, (path,)) for path in sorted(single) if _kind(path)]
    return sorted((archive for archive in archives if archive), key=lambda archive: archive.name)


def _order(suffix: str) -> tuple[int, str]:
    """Numbers by value; letters as they count: aa, ab, ..., az, ba."""
    if suffix.isdigit():
        return int(suffix), ""
    number = 0
    for letter in suffix.lower():
        number = number * 26 + ord(letter) - ord("a")
    return number, ""


def _check_complete(name: str, keys: list[tuple[int, str]]) -> None:
    numbers = [number for number, _ in keys]
    if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        wanted = set(range(min(numbers[0], 1), numbers[-1])) - set(numbers)
        raise DataError(
            f"parts of the archive are missing: {sorted(wanted)[:5]} of those up to {numbers[-1]}",
            code="VT-DATA-054",
            where=name,
            remedy="fetch all parts of it",
        )


def _kind(path: str) -> tuple[Kind, str] | None:
    lower = path.lower()
    matches = [(len(end), kind, how) for end, kind, how in _KINDS if lower.endswith(end)]
    return max(matches)[1:] if matches else None


def _archive(name: str, parts: tuple[str, ...]) -> Archive:
    kind, compression = _kind(name) or ("tar", "")
    return Archive(name, kind, compression, parts)
