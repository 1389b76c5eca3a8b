"""What adapters get and give, and how they write records: each row is written or rejected with a
reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita_train.console import say
from vita_train.data.catalogue.entry import Entry
from vita_train.data.sources.files import write_records
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


@dataclass
class RecordWriter:
    """Writes the records of one split, and counts."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)

    def write(self, rows: Iterable[dict[str, Any] | Rejected]) -> int:
        """Write all rows and the rejects file beside; return the number of records.

        Raises:
            DataError: there are none.
        """

        def kept() -> Iterable[dict[str, Any]]:
            for row in rows:
                self.counts["read"] += 1
                if isinstance(row, Rejected):
                    self.counts[f"rejected: {row.reason}"] += 1
                    self.rejected.append(row)
                else:
                    self.counts["records"] += 1
                    yield row

        write_records(self.path, kept())
        rejects = self.path.with_suffix(".rejects.jsonl")
        with rejects.open("w", encoding="utf-8") as file:
            for row in self.rejected:
                file.write(json.dumps({"where": row.where, "reason": row.reason}) + "\n")
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        say(f"{self.path.name}: {counts or 'nothing'}")
        if not self.counts["records"]:
            raise DataError(
                f"no record came of it: {counts or 'there are no rows'}",
                code="VT-DATA-055",
                where=str(self.path),
                remedy=f"look at {rejects} and at what was fetched",
            )
        return self.counts["records"]


def missing(path: Path) -> DataError:
    """Return the error of a corpus that lacks what its adapter reads."""
    return DataError(
        "is not there, though its corpus was fetched",
        code="VT-DATA-056",
        where=str(path),
        remedy="fetch it again to an empty folder; if it stays so, its publisher changed it",
    )
