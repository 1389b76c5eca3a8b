"""Counts of one record file."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import Any

from vita_train.data.check.examine import length_examiner
from vita_train.data.index.stats import TOKEN_EDGES
from vita_train.data.prepare.row_encoder import Example
from vita_train.data.sources.reading import Reject, Row
from vita_train.data.sources.records import split_placeholders
from vita_train.data.sources.source import RecordSource
from vita_train.recipe.schema import Recipe

#: Records of more tokens than this are listed.
LONG = 4500


def count_records(rows: Iterable[Row | Reject]) -> dict[str, Any]:
    """Return the numbers of records, turns, questions by kind, and files."""
    counts: Counter[str] = Counter()
    sets: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, Reject):
            counts["rejected"] += 1
            continue
        record = row.record
        counts.update(
            records=1,
            rounds=len(record.conversations) // 2,
            images=len(row.images),
            videos=len(row.videos),
            audios=len(row.audios),
            negatives=record.inserted_id is not None,
            interrupted=not record.end_tag,
        )
        for turn in record.conversations[::2]:
            spoken = "audio" in split_placeholders(turn.value)[1::2]
            counts["audio questions" if spoken else "text questions"] += 1
        sets.update({ref.root for ref in (*row.images, *row.videos)})
    return {**dict(counts), "sets": dict(sorted(sets.items()))}


def count_tokens(source: RecordSource, recipe: Recipe, *, workers: int = 1) -> dict[str, Any]:
    """Return a histogram of tokens a record, media included, and the rows that are long.

    Raises:
        UserError: the recipe names no tokenizer.
        DataError: the file cannot be read, or a media root is missing or empty.
    """
    histogram = [0] * len(TOKEN_EDGES)
    reasons: Counter[str] = Counter()
    long: list[dict[str, Any]] = []
    total = 0
    with length_examiner(recipe, workers=workers) as examiner:
        for found in examiner.split(source):
            if isinstance(found.result, Example):
                tokens = found.result.tokens
                total += tokens
                histogram[bisect_right(TOKEN_EDGES, tokens) - 1] += 1
                if tokens > LONG:
                    long.append({"row": found.row.row, "id": found.row.id, "tokens": tokens})
            elif found.reject is not None:
                reasons[found.reject.reason] += 1
    return {
        "records": sum(histogram),
        "rejected": dict(sorted(reasons.items())),
        "tokens": total,
        "histogram": {str(edge): count for edge, count in zip(TOKEN_EDGES, histogram, strict=True)},
        "long": long,
    }
