"""Fetch sources to a folder: access first, then room, then bytes, then archives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vita_train.console import say
from vita_train.data.catalogue.entry import Entry
from vita_train.data.catalogue.load import Catalogue
from vita_train.data.fetch.finish import finish
from vita_train.data.fetch.folder import (
    journal_path,
    need_room,
    opened,
    part_path,
    translated,
)
from vita_train.data.fetch.licence import accept_licences
from vita_train.data.fetch.limits import Limits
from vita_train.data.fetch.lock import LockFile
from vita_train.data.fetch.origin import RemoteFile
from vita_train.data.fetch.pool import transfer_all
from vita_train.data.fetch.presence import is_there
from vita_train.data.fetch.progress import size
from vita_train.data.fetch.source import ADDRESSES
from vita_train.data.fetch.wanted import Wanted, probed, resolve_entries
from vita_train.errors import UserError


@dataclass(frozen=True)
class Fetched:
    """What a fetch did."""

    files: int
    """Files of the sources."""
    transferred: int
    """Files of them that were not there before."""
    unpacked: int
    """Archives that were unpacked now."""


def fetch(
    entries: Sequence[Entry],
    root: Path,
    *,
    catalogue: Catalogue,
    accept_licence: bool = False,
    mirror: str | None = None,
    update: bool = False,
    keep_archives: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Fetched:
    """Bring all files of entries to a folder and write its lock file.

    What is there already, as the lock file says, is left as it is; what an earlier fetch did not
    finish is continued.

    Args:
        entries: what to fetch.
        root: the target folder.
        catalogue: for names that are near a wrong one.
        accept_licence: whether the licences are accepted.
        mirror: name of other places to fetch from, for the entries that have it.
        update: forget versions and checksums of earlier fetches.
        keep_archives: leave archives where they are when they were unpacked.
        limits: of transfers.

    Raises:
        UserError: refused by a server, the disk, or for want of a licence.
        DataError: what arrives is not what is stated, or an archive is damaged or unsafe.
        StorageError: a server stayed away.
    """
    with opened(root), translated(root):
        lock = LockFile(root, journal_path(root))
        accept_licences(
            [entry for entry in entries if entry.name != ADDRESSES], lock, accept_licence
        )
        pinned = {} if update else {entry.name: lock.source(entry.name).pinned for entry in entries}
        wanted = resolve_entries(entries, pinned, catalogue, mirror, limits)
        _refuse_collisions(wanted)
        missing = _missing(wanted, lock, root, update=update)
        say(f"target tree below {root}:")
        for one in wanted:
            for line in tree(one.entry):
                say(f"  {line}")
        missing = probed(missing, limits)
        _check_room(missing, wanted, root)
        for one in wanted:
            lock.pin(one.entry.name, one.pinned)
        transfer_all(missing, lock, root, limits, update=update)
        for one in wanted:  # those that another of them brought
            for file in one.files:
                is_there(file, one.entry.name, lock, root, update=False)
        unpacked = sum(
            finish(one.entry, one.files, lock, root, keep_archives=keep_archives) for one in wanted
        )
        return Fetched(sum(len(one.files) for one in wanted), len(missing), unpacked)


def _missing(
    wanted: Sequence[Wanted], lock: LockFile, root: Path, *, update: bool
) -> list[tuple[str, RemoteFile]]:
    """Return the files to transfer, each once, with the name of the first that wants it."""
    found: dict[str, tuple[str, RemoteFile]] = {}
    for one in wanted:
        for file in one.files:
            if file.path not in found and not is_there(
                file, one.entry.name, lock, root, update=update
            ):
                found[file.path] = (one.entry.name, file)
    return list(found.values())


def tree(entry: Entry) -> list[str]:
    """Return where an entry's files go, a line for each place."""
    lines = []
    for place in entry.places:
        to = getattr(place, "path" if place.kind == "http" else "to") or "."
        into = getattr(place, "unpack", None)
        lines.append(f"{to}" + (f" -> {into or '.'}/" if into is not None else ""))
    return lines


def _refuse_collisions(wanted: Sequence[Wanted]) -> None:
    owners: dict[str, tuple[str, str]] = {}
    for one in wanted:
        for file in one.files:
            name, where = owners.setdefault(file.path, (one.entry.name, file.origin.where))
            if where != file.origin.where:
                raise UserError(
                    f"{name} and {one.entry.name} both have a file {file.path}",
                    code="VT-USE-204",
                    where=file.path,
                    remedy="fetch them to different folders by --to",
                )


def _check_room(
    missing: Sequence[tuple[str, RemoteFile]], wanted: Sequence[Wanted], root: Path
) -> None:
    here = sum(
        part.stat().st_size for _, file in missing if (part := part_path(root, file.path)).is_file()
    )
    need = sum(file.size or file.expected or 0 for _, file in missing) - here
    if missing:
        say(f"to fetch: {len(missing)} files, {size(max(need, 0))}")
    names = {name for name, _ in missing}
    # Media do not become much larger by unpacking, where nothing is stated.
    need += sum(
        getattr(one.entry, "unpacked_bytes", None)
        or sum(file.size or 0 for file in one.files if file.unpack is not None)
        for one in wanted
        if one.entry.name in names
    )
    need_room(root, max(need, 0), "the files, and what archives among them unpack to,")
