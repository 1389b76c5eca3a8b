"""What people see: progress and lines of a log, and a list of checks, each with a tick or a
cross."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console

from vita_train.errors import UserError, VitaError
from vita_train.printable import printable_message

T = TypeVar("T")

_LINES = 5


def say(text: str) -> None:
    """Print one line to the error stream, where it never mixes with a command's output."""
    print(printable_message(text), file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Return a duration as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


#: Descriptor by which a rank of a job reaches whoever started the job, since its own output goes to
#: its log.
_starter: list[int] = []


def reach_starter(descriptor: int) -> None:
    """Take a descriptor by which `warn` reaches whoever started this process too."""
    _starter[:] = [descriptor]


def tell_starter(line: str) -> None:
    """Write a line to whoever started this process; nothing where there is nobody, or nobody
    listens any more."""
    for descriptor in _starter:
        with suppress(OSError):
            os.write(descriptor, f"{line}\n".encode())


def warn(text: str, *, everywhere: bool = True) -> None:
    """Print a warning; in a rank of a job also where the job was started, if ``everywhere`` (let
    one rank do it)."""
    line = printable_message(f"warning: {text}")
    say(line)
    if everywhere:
        tell_starter(line)


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Hand on ``items`` while showing how many of ``total`` have passed.

    On a terminal this is a bar; elsewhere a line each fifth of the way, so that log files stay
    short.
    """
    if sys.stderr.isatty():
        from rich.progress import track

        yield from track(items, total=total, description=label, console=Console(stderr=True))
        return
    shown = 0
    for done, item in enumerate(items, 1):
        yield item
        part = _LINES * done // max(total, 1)
        if part > shown:
            shown = part
            say(f"{label}: {done}/{total}")


@dataclass(frozen=True)
class Found:
    """What a check found that nothing is wrong with."""

    detail: str
    warnings: tuple[str, ...] = ()
    """What may be meant, but often is not, or what could not be checked; each with its remedy."""


@dataclass(frozen=True)
class Check:
    """One line of the list."""

    name: str
    ok: bool
    detail: str
    warnings: tuple[str, ...] = ()


def check(name: str, work: Callable[[], str | Found]) -> Check:
    """Return a check's outcome: what ``work`` returns, or the error it raises."""
    try:
        found = work()
    except VitaError as error:
        return Check(name, False, str(error))
    if isinstance(found, str):
        return Check(name, True, found)
    return Check(name, True, found.detail, found.warnings)


def show_checks(
    checks: list[Check], console: Console, *, what: str = "preflight", always: bool = False
) -> None:
    """Print the checks, numbered, with a tick or a cross each, their warnings, and a verdict.

    Args:
        checks: what to print.
        console: where to.
        what: is checked, for the last line.
        always: print also when every check passed; otherwise the warnings and one line that says
            so.

    Raises:
        UserError: a check failed; what was checked would fail as well.
    """
    failed = [check for check in checks if not check.ok]
    if failed or always:
        for number, check in enumerate(checks, 1):
            mark, style = ("✓", "green") if check.ok else ("✗", "bold red")
            console.print(f"{number}. [{style}]{mark}[/] {check.name}: ", end="", highlight=False)
            console.print(
                printable_message(check.detail), markup=False, highlight=False, soft_wrap=True
            )
            _show_warnings(check, console, indent="   ")
    else:
        for check in checks:
            _show_warnings(check, console, indent=f"{check.name}: ")
    warnings = sum(len(check.warnings) for check in checks)
    if not failed:
        noted = f", {warnings} warning{'s'[: warnings - 1]}" if warnings else ""
        console.print(f"{what}: {len(checks)} checks passed{noted}", highlight=False)
    else:
        raise UserError(
            f"{what} refused: {', '.join(check.name for check in failed)}",
            code="VT-USE-028",
            remedy="fix what is marked above, then run the same command again",
        )


def _show_warnings(check: Check, console: Console, *, indent: str) -> None:
    for warning in check.warnings:
        console.print(f"{indent}[yellow]![/] ", end="", highlight=False)
        console.print(printable_message(warning), markup=False, highlight=False, soft_wrap=True)
