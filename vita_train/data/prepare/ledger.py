"""What came in, what went out, and what was turned down: in = out + rejected, for every split."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from vita_train.data.prepare.row_encoder import Example
from vita_train.data.sources.reading import Reject
from vita_train.errors import DataError
from vita_train.printable import printable
from vita_train.recipe.base import Strict


class SplitLedger(Strict):
    """Counts of one split."""

    dataset: str
    split: str
    records: int
    """Rows read."""
    used: int
    """Rows in the index."""
    rejected: int
    reasons: dict[str, int] = {}
    """Rejected rows by category."""
    lenient: dict[str, int] = {}
    """Used rows that needed a leniency, by its name; a row may need several."""
    tokens: int = 0
    """Tokens, media included."""
    supervised: int = 0
    tiles: int = 0
    frames: int = 0
    """Filterbank frames."""
    seconds: float = 0.0
    """Of audio."""
    digest: str = ""
    """Of the rows in the index."""

    @model_validator(mode="after")
    def _balanced(self) -> SplitLedger:
        if self.records != self.used + self.rejected or self.rejected != sum(self.reasons.values()):
            raise ValueError(
                f"{self.dataset}/{self.split}: {self.records} rows read, {self.used} used and "
                f"{self.rejected} rejected do not add up"
            )
        return self


class PrepareLedger(Strict):
    """Counts of a whole corpus."""

    format: Literal["vita-train/ledger/v1"] = "vita-train/ledger/v1"
    digest: str = ""
    """Of everything that preparation depended on."""
    splits: list[SplitLedger] = []

    @property
    def records(self) -> int:
        """Rows read."""
        return sum(split.records for split in self.splits)

    @property
    def used(self) -> int:
        """Rows in the corpus."""
        return sum(split.used for split in self.splits)

    @property
    def rejected(self) -> int:
        """Rows turned down."""
        return sum(split.rejected for split in self.splits)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(
            json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, path: Path) -> PrepareLedger:
        """Read a ledger.

        Raises:
            DataError: missing or not a ledger.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"ledger cannot be read: {error}",
                code="VT-DATA-013",
                where=str(path),
                remedy="prepare the data again",
            ) from error


class Counts(Strict):
    """What the used rows of a part of a split hold together."""

    used: int = 0
    tokens: int = 0
    supervised: int = 0
    tiles: int = 0
    frames: int = 0
    seconds: float = 0.0
    lenient: dict[str, int] = {}


class Counting:
    """Counts the rows of one split as they pass."""

    def __init__(self, dataset: str, split: str) -> None:
        self.dataset, self.split = dataset, split
        self.reasons: Counter[str] = Counter()
        self.lenient: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.seconds = 0.0
        self.first: list[Reject] = []
        """A few rejected rows for messages."""

    @property
    def records(self) -> int:
        """Rows that have passed."""
        return self.sums["used"] + self.reasons.total()

    def add(self, result: Example | Reject) -> None:
        """Count one row."""
        if isinstance(result, Reject):
            self.reasons[result.reason] += 1
            if len(self.first) < 3:
                self.first.append(result)
            return
        self.sums.update(
            used=1,
            tokens=result.tokens,
            supervised=result.supervised,
            tiles=result.tiles,
            frames=result.frames,
        )
        self.seconds += result.seconds
        self.lenient.update(result.lenient)

    def add_counts(self, counts: Counts, rejects: Sequence[Reject]) -> None:
        """Count rows that were counted together before."""
        self.reasons.update(reject.reason for reject in rejects)
        self.first += rejects[: 3 - len(self.first)]
        self.sums.update(
            used=counts.used,
            tokens=counts.tokens,
            supervised=counts.supervised,
            tiles=counts.tiles,
            frames=counts.frames,
        )
        self.seconds += counts.seconds
        self.lenient.update(counts.lenient)

    def close(self) -> SplitLedger:
        """Return the counts."""
        return SplitLedger(
            dataset=self.dataset,
            split=self.split,
            records=self.records,
            used=self.sums["used"],
            rejected=self.reasons.total(),
            reasons=dict(sorted(self.reasons.items())),
            lenient=dict(sorted(self.lenient.items())),
            tokens=self.sums["tokens"],
            supervised=self.sums["supervised"],
            tiles=self.sums["tiles"],
            frames=self.sums["frames"],
            seconds=round(self.seconds, 3),
        )

    def fault(self, max_share: float) -> str:
        """Return why this split must not be used, or an empty text."""
        name, total = f"{self.dataset}/{self.split}", self.records
        rejected = self.reasons.total()
        if total == 0:
            return f"{name} holds no records"
        # A split of nothing but rejects is a fault whatever share is allowed
        if rejected / total <= max_share and self.sums["used"]:
            return ""
        first = "; ".join(
            f"row {reject.row} ({printable(reject.id)}): {reject.reason}: "
            f"{printable(reject.detail)}"
            for reject in self.first
        )
        return f"{name}: {rejected} of {total} records rejected. First: {first}"


def reject_line(dataset: str, split: str, reject: Reject) -> str:
    """Return a line of ``rejects.jsonl``."""
    value = {
        "dataset": dataset,
        "split": split,
        "row": reject.row,
        "id": reject.id,
        "reason": reject.reason,
        "detail": reject.detail,
    }
    # Shown to people in a terminal, who must not meet control characters of somebody's record
    return printable(json.dumps(value, ensure_ascii=False), sys.maxsize) + "\n"
