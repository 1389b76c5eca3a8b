"""Licences: shown before anything is fetched, accepted once for a folder, kept in its lock file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from vita_train.console import say
from vita_train.data.catalogue.entry import Entry
from vita_train.data.fetch.lock import Acceptance, LockFile
from vita_train.errors import UserError


def accept_licences(entries: Sequence[Entry], lock: LockFile, accepted: bool) -> None:
    """Show the licences that were not accepted yet, and ask for it.

    Args:
        entries: of the catalogue.
        lock: of the target folder.
        accepted: whether the command line says so; else a person at a terminal is asked.

    Raises:
        UserError: they were not accepted.
    """
    new = unaccepted(entries, lock.licences)
    for entry in new:
        licence = entry.licence
        details = "; ".join(part for part in (licence.note, licence.url or "") if part)
        say(f"licence of {entry.name}: {licence.name}{f' ({details})' if details else ''}")
    if not new:
        return
    if not accepted and not (sys.stdin.isatty() and _ask()):
        raise UserError(
            f"the licences of {', '.join(entry.name for entry in new)} were not accepted",
            code="VT-USE-197",
            remedy="read them, then run the same command with --accept-licence",
        )
    for entry in new:
        lock.accept(entry.name, entry.licence)


def unaccepted(entries: Sequence[Entry], known: Mapping[str, Acceptance]) -> list[Entry]:
    """Return the entries whose licences, as they are now, were not accepted yet."""
    return [
        entry
        for entry in entries
        if entry.name not in known or known[entry.name].licence != entry.licence
    ]


def _ask() -> bool:
    import typer

    return typer.confirm("Accept?", err=True)
