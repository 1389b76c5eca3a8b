"""Names of runs that hold a date: ``nightly-{date}`` is another run every night."""

from __future__ import annotations

import re
from datetime import datetime

from vita_train.errors import UserError

#: What may stand in braces, and what `datetime.strftime` makes of it.
FIELDS = {"date": "%Y-%m-%d", "time": "%H%M"}
_FIELD = re.compile(r"\{([^{}]*)\}")


def has_date(name: str) -> bool:
    """Say whether a name is one that is filled in when a run begins."""
    return "{" in name


def dated(name: str, now: datetime) -> str:
    """Return a name with the date and the time of day filled in.

    Args:
        name: may hold ``{date}`` and ``{time}``.
        now: when the run began.

    Raises:
        UserError: something else stands in braces.
    """

    def filled(match: re.Match[str]) -> str:
        if match[1] not in FIELDS:
            raise UserError(
                f"{{{match[1]}}} cannot be filled in",
                code="VT-USE-132",
                where=f"run {name!r}",
                remedy=f"in braces may stand {' or '.join(FIELDS)}",
            )
        return now.strftime(FIELDS[match[1]])

    return _FIELD.sub(filled, name)
