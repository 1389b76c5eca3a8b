"""The data ledger as rows: what came in, what is trained on, what was turned down and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LedgerRow:
    """Records of one dataset, and the kept ones by split. Where in is not out + rejected, ``balanced`` is false."""

    dataset: str
    splits: tuple[tuple[str, int], ...]
    records_in: int
    records_out: int
    rejected: int
    reasons: tuple[tuple[str, int], ...]

    @property
    def balanced(self) -> bool:
        """Whether every record is accounted for."""
        return self.records_in == self.records_out + self.rejected


def ledger_rows(ledger: Mapping[str, Any]) -> list[LedgerRow]:
    """Return a row per dataset, in the ledger's order; entries of another shape are skipped."""
    datasets = ledger.get("datasets")
    if not isinstance(datasets, Mapping):
        return []
    return [_row(str(name), splits) for name, splits in datasets.items() if isinstance(splits, Mapping)]


def _row(dataset: str, splits: Mapping[str, Any]) -> LedgerRow:
    entries = {str(split): entry for split, entry in splits.items() if isinstance(entry, Mapping)}
    reasons: Counter[str] = Counter()
    for entry in entries.values():
        named = entry.get("reasons")
        if isinstance(named, Mapping):
            reasons.update({str(reason): int(number) for reason, number in named.items()})
    return LedgerRow(
        dataset,
        tuple((split, _number(entry, "out")) for split, entry in entries.items()),
        sum(_number(entry, "in") for entry in entries.values()),
        sum(_number(entry, "out") for entry in entries.values()),
        sum(_number(entry, "rejected") for entry in entries.values()),
        tuple(reasons.most_common()),
    )


def _number(entry: Mapping[str, Any], key: str) -> int:
    value = entry.get(key, 0)
    return int(value) if isinstance(value, int | float) else 0
