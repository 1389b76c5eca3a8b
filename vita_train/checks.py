"""A list of checks as people see it: numbered, each with a tick or a cross and what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from vita_train.errors import UserError, VitaError


@dataclass(frozen=True)
class Check:
    """One line of the list."""

    name: str
    ok: bool
    detail: str


def check(name: str, work: Callable[[], str]) -> Check:
    """Return a check's outcome: what ``work`` returns, or the error it raises."""
    try:
        return Check(name, True, work())
    except VitaError as error:
        return Check(name, False, str(error))


def show_checks(checks: list[Check], console: Console, *, what: str = "preflight", always: bool = False) -> None:
    """Print the checks, numbered, with a tick or a cross each.

    Args:
        checks: what to print.
        console: where to.
        what: is checked, for the last line.
        always: print also when every check passed; otherwise one line says so.

    Raises:
        UserError: a check failed; what was checked would fail as well.
    """
    failed = [check for check in checks if not check.ok]
    if failed or always:
        for number, check in enumerate(checks, 1):
            mark, style = ("✓", "green") if check.ok else ("✗", "bold red")
            console.print(f"{number}. [{style}]{mark}[/] {check.name}: ", end="", highlight=False)
            console.print(check.detail, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(f"{what}: {len(checks)} checks passed", highlight=False)
    if failed:
        raise UserError(f"{what} refused: {', '.join(check.name for check in failed)}",
                        remedy="mend what is marked above, then run the same command again")
