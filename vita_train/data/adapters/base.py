"""What adapters get and give, and how they write records: each row is written or rejected with a
reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_train.console import say
from vita_train.data.catalogue.entry import Entry
from vita_train.errors import DataError


@dataclass(frozen=True)
class Input:
    """A corpus that was fetched, and a folder for what becomes of it."""

    entry: Entry
    data: Path
    """The target folder of the fetch."""
    out: Path
    """Empty folder for records."""

    def root(self, key: str) -> str:
        """Return the media folder of a set key, as the registry names it."""
        return str((self.data / self.entry.roots[key]).absolute())


@dataclass(frozen=True)
class Rejected:
    """A row of a corpus that becomes no record."""

    where: str
    reason: str
    """One of a few words, for counting."""


def write_rows(path: Path, rows: Iterable[dict[str, Any] | Rejected]) -> None:
    """Write the records of one split as JSON Lines, and what was rejected to a file beside it.

    Raises:
        DataError: no record is among them.
    """
    counts: Counter[str] = Counter()
    rejects = path.with_suffix(".rejects.jsonl")
    with path.open("w", encoding="utf-8") as kept, rejects.open("w", encoding="utf-8") as refused:
        for row in rows:
            if isinstance(row, Rejected):
                counts[f"rejected: {row.reason}"] += 1
                refused.write(json.dumps({"where": row.where, "reason": row.reason}) + "\n")
            else:
                counts["records"] += 1
                kept.write(json.dumps(row, ensure_ascii=False) + "\n")
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no rows"
    say(f"{path.name}: {told}")
    if not counts["records"]:
        raise DataError(
            f"no record came of it: {told}",
            code="VT-DATA-067",
            where=str(path),
            remedy=f"look at {rejects} and at what was fetched",
        )


def missing(path: Path) -> DataError:
    """Return the error of a corpus that lacks what its adapter reads."""
    return DataError(
        "is not there, though its corpus was fetched",
        code="VT-DATA-064",
        where=str(path),
        remedy="fetch it again to an empty folder; if it stays so, its publisher changed it",
    )
