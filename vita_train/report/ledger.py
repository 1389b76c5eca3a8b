"""The data ledger by dataset: what came in, what is kept, what was turned down and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vita_train.data.prepare.ledger import PrepareLedger, SplitLedger


@dataclass(frozen=True)
class LedgerRow:
    """Records of one dataset, and the kept ones by split."""

    dataset: str
    splits: tuple[tuple[str, int], ...]
    records: int
    used: int
    rejected: int
    reasons: tuple[tuple[str, int], ...]


def ledger_rows(ledger: Mapping[str, Any]) -> list[LedgerRow]:
    """Return a row per dataset, in the ledger's order; nothing if the document is no ledger."""
    try:
        splits = PrepareLedger.model_validate(dict(ledger)).splits
    except ValidationError:
        return []
    datasets: dict[str, list[SplitLedger]] = {}
    for split in splits:
        datasets.setdefault(split.dataset, []).append(split)
    return [_row(name, parts) for name, parts in datasets.items()]


def _row(dataset: str, parts: list[SplitLedger]) -> LedgerRow:
    reasons = sum((Counter(part.reasons) for part in parts), Counter())
    return LedgerRow(
        dataset,
        tuple((part.split, part.used) for part in parts),
        sum(part.records for part in parts),
        sum(part.used for part in parts),
        sum(part.rejected for part in parts),
        tuple(reasons.most_common()),
    )
