"""Evenly spaced rows of many tables: TextFLAN's million of 378 million.

Positions are whole numbers throughout. VILA's script computes them in float32, which holds no odd
number above 2**24: there the spacing is uneven, and the last position may lie behind the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Rejected
from vita_train.data.formats.rewrite import plain
from vita_train.data.select.tables import opened
from vita_train.errors import UserError

COLUMNS = ("inputs", "targets")


def even_positions(total: int, count: int) -> Iterator[int]:
    """Yield ``count`` places of ``total``, the first and the last among them, evenly spaced.

    Raises:
        UserError: there are fewer, or less than two are wanted.
    """
    if not 2 <= count <= total:
        raise UserError(
            f"{count} evenly spaced rows cannot be taken of {total}",
            code="VT-USE-248",
            where="--count",
            remedy=f"take 2 to {total}",
        )
    return (place * (total - 1) // (count - 1) for place in range(count))


def flan_tables(folder: Path, suffix: str = "_data") -> list[Path]:
    """Return the tables of the subfolders whose names end so, in order."""
    return [
        path
        for sub in sorted(folder.iterdir())
        if sub.is_dir() and sub.name.endswith(suffix)
        for path in sorted(sub.glob("*.parquet"))
    ]


def flan_records(tables: Iterable[Path], count: int) -> Iterator[dict[str, Any] | Rejected]:
    """Yield the record of each place that is taken, or why there is none. Rows are counted by the
    footers, and only row groups that hold a place are read, one at a time.

    Raises:
        UserError: there are too few rows.
        DataError: a table is damaged or lacks columns.
    """
    groups: list[tuple[Path, int, int]] = []  # table, row group, first row of all
    total = 0
    for path in tables:
        with opened(path, COLUMNS) as file:
            for group in range(file.num_row_groups):
                groups.append((path, group, total))
                total += file.metadata.row_group(group).num_rows
    numbered = enumerate(even_positions(total, count))
    starts = iter([*(start for _, _, start in groups[1:]), total])
    place = 0
    end = next(starts)

    def group_of(pair: tuple[int, int]) -> int:
        nonlocal place, end
        while pair[1] >= end:
            place, end = place + 1, next(starts)
        return place

    for index, pairs in groupby(numbered, group_of):
        path, group, start = groups[index]
        with opened(path, COLUMNS) as file:
            table = file.read_row_group(group, columns=list(COLUMNS))
        for number, position in pairs:
            row = table.slice(position - start, 1).to_pylist()[0]
            yield _record(number, f"{path.parent.name}/{path.name}:{position}", row)


def _record(number: int, where: str, row: dict[str, Any]) -> dict[str, Any] | Rejected:
    question, answer = (row[name] for name in COLUMNS)
    if not isinstance(question, str) or not question.strip():
        return Rejected(where, "empty question")
    if not isinstance(answer, str) or not answer.strip():
        return Rejected(where, "empty answer")
    return {
        "id": f"text_flan_{number:08d}",
        "conversations": [
            {"from": "human", "value": plain(question)},
            {"from": "gpt", "value": answer},
        ],
    }
