"""What became of every tensor of an import: taken, renamed, left where it is for a reason, or
wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from vita_train.errors import CheckpointError
from vita_train.weights.staging import write_json

Status = Literal["used", "renamed", "left out", "missing", "unexpected", "shape", "kind"]

STATUSES: tuple[Status, ...] = (
    "used",
    "renamed",
    "left out",
    "missing",
    "unexpected",
    "shape",
    "kind",
)
#: Each a fault that keeps an import from being made.
FAULTS: tuple[Status, ...] = ("missing", "unexpected", "shape", "kind")
#: Faults listed one by one in an error; the table has all.
_MOST_LISTED = 10
#: Characters of a stranger's name or value that are shown.
_LONGEST_SHOWN = 160


def shown(text: object) -> str:
    """Return what a stranger wrote so that it fits on a line and does nothing to a terminal."""
    plain = str(text)
    # Control characters in a name could move the cursor or change colours
    plain = plain if plain.isprintable() else ascii(plain)
    return plain if len(plain) <= _LONGEST_SHOWN else plain[:_LONGEST_SHOWN] + "..."


@dataclass(frozen=True)
class Row:
    """One tensor of theirs, or one of ours that has none."""

    status: Status
    theirs: str
    """Name in the source; for a missing tensor the name it should have there."""
    module: str = ""
    ours: str = ""
    """Name within our module; empty where it has none."""
    detail: str = ""

    def __str__(self) -> str:
        fault = {"shape": "has another shape", "kind": "is of another kind"}.get(
            self.status, f"is {self.status}"
        )
        return f"{shown(self.theirs)} {fault}" + (f": {self.detail}" if self.detail else "")


@dataclass
class ImportReport:
    """Every tensor of an import, in the order of the source's names."""

    source: str
    layout: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader should know beside the tensors."""
    problems: list[str] = field(default_factory=list)
    """What is wrong beside the tensors: settings that contradict the recipe."""

    @property
    def faults(self) -> list[Row]:
        """Rows that keep the import from being made."""
        return [row for row in self.rows if row.status in FAULTS]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return {module: {status: tensors}}; what belongs to no module stands under ``-``."""
        counted: dict[str, Counter[str]] = {}
        for row in self.rows:
            counted.setdefault(row.module or "-", Counter())[row.status] += 1
        return {module: dict(statuses) for module, statuses in sorted(counted.items())}

    def check(self) -> None:
        """Refuse an import in which something is not explained.

        Raises:
            CheckpointError: naming the tensors.
        """
        listed = self.problems + [str(row) for row in self.faults]
        if listed:
            more = f"; and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
            raise CheckpointError(
                f"does not fit the recipe's model: {'; '.join(listed[:_MOST_LISTED])}{more}",
                code="VT-WEIGHTS-038",
                where=self.source,
                remedy="give the recipe the weights were made with, or name the "
                "modules to import with --modules",
            )

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        value = {"format": "vita-train/ledger/v1", **asdict(self), "counts": self.counts()}
        write_json(path, value)
