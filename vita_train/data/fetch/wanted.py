"""What entries want fetched: the files that hubs and servers say they have, and how large they
are."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from vita_train.console import say
from vita_train.data.catalogue.entry import DebianPackage, Entry, Form, Hub, Place
from vita_train.data.catalogue.load import Catalogue
from vita_train.data.fetch.http import away
from vita_train.data.fetch.limits import Limits
from vita_train.data.fetch.origin import AwayError, RemoteFile
from vita_train.data.fetch.resolve import resolve
from vita_train.errors import EXIT_RETRYABLE, StorageError, UserError

#: Times that a hub is asked for its files.
_ASKED = 3


@dataclass(frozen=True)
class Wanted:
    """One entry and its files."""

    entry: Entry
    files: tuple[RemoteFile, ...]
    pinned: dict[str, str]


def resolve_entries(
    entries: Sequence[Entry],
    pinned: Mapping[str, Mapping[str, str]],
    catalogue: Catalogue,
    mirror: str | None,
    limits: Limits,
) -> list[Wanted]:
    """Return the files of entries.

    Args:
        entries: what is wanted.
        pinned: versions to take, by the entries' names; others take the newest.
        catalogue: for names that are near a wrong one.
        mirror: name of other places to fetch from, for the entries that have it.
        limits: of transfers.

    Raises:
        UserError: an entry has no such mirror, or a server refuses.
        StorageError: a server stayed away.
    """
    repos = {
        place.repo
        for known in catalogue.entries.values()
        for place in known.places
        if isinstance(place, Hub)
    }
    return [
        _resolved(entry, pinned.get(entry.name, {}), repos, mirror, limits) for entry in entries
    ]


def _resolved(
    entry: Entry,
    pinned: Mapping[str, str],
    repos: set[str],
    mirror: str | None,
    limits: Limits,
) -> Wanted:
    files: list[RemoteFile] = []
    commits: dict[str, str] = {}
    if mirror is not None and not entry.mirrors:
        say(f"{entry.name} has no mirrors; it is fetched from its own places")
        mirror = None
    try:
        places = entry.places_from(mirror)
    except KeyError as error:
        raise UserError(
            f"{entry.name} has no mirror {mirror!r}",
            code="VT-USE-203",
            remedy=f"it has {', '.join(entry.mirrors)}",
        ) from error
    for place in places:
        if isinstance(place, Form | DebianPackage):
            continue
        found, stand_for = _asked(place, pinned, repos, limits)
        files += found
        commits |= stand_for
    return Wanted(entry, tuple(files), commits)


def _asked(
    place: Place, pinned: Mapping[str, str], repos: set[str], limits: Limits
) -> tuple[list[RemoteFile], dict[str, str]]:
    """Resolve a place; a hub that does not answer is asked a few times."""
    for failures in range(1, _ASKED):
        try:
            return resolve(place, pinned, repos)
        except StorageError as error:
            if error.exit_code != EXIT_RETRYABLE:
                raise
            time.sleep(limits.pause(failures, None))
    return resolve(place, pinned, repos)


def probed(missing: list[tuple[str, RemoteFile]], limits: Limits) -> list[tuple[str, RemoteFile]]:
    """Ask for the size of files that state none; with that, access to each host is tried.

    Returns:
        The files; sizes that servers gave are kept apart from stated ones, for nothing is checked
        by them.
    """
    unknown = [(name, file) for name, file in missing if file.size is None]

    def ask(item: tuple[str, RemoteFile]) -> int | None:
        failures = 0
        while True:
            try:
                return item[1].origin.probe()
            except AwayError as error:
                failures += 1
                if failures >= limits.tries:
                    raise away(item[1].origin.where, error) from error
                threading.Event().wait(limits.pause(failures, error.pause))

    with ThreadPoolExecutor(limits.per_host) as pool:
        sizes = dict(zip((id(file) for _, file in unknown), pool.map(ask, unknown), strict=True))
    return [
        (name, replace(file, expected=sizes[id(file)]) if id(file) in sizes else file)
        for name, file in missing
    ]
