"""What a whole fetch of a corpus holds, as far as its publisher says, and whether a folder does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import model_validator

from vita_train.data.sources.texts import read_values
from vita_train.errors import DataError
from vita_train.recipe.base import Strict


class Expected(Strict):
    """Files of a corpus."""

    files: str
    """Pattern below the target folder, where ``*`` stays within a folder and ``**`` does not;
    ``{}`` stands for a number."""
    numbers: tuple[int, int] | None = None
    """First and last number of the files."""
    absent: tuple[int, ...] = ()
    """Numbers between them that were never published."""
    count: int | None = None
    """Of the files."""
    rows: int | None = None
    """Of all tables, by their footers."""
    records: int | None = None
    """About how many the files have that are no tables, right to a hundredth."""
    columns: tuple[str, ...] = ()
    """That each table must have."""
    names: tuple[str, ...] = ()
    """Each is a folder of the path of some file."""

    @model_validator(mode="after")
    def _numbered(self) -> Expected:
        if (self.numbers is None) == ("{}" in self.files):
            raise ValueError("numbers go with a {} in files")
        return self


@dataclass(frozen=True)
class Inventory:
    """What a folder holds."""

    files: int
    bytes: int
    rows: int | None
    """Of tables, or records; none where neither is known."""
    absent: tuple[int, ...]
    """Numbers that are not there, and were never published."""
    others: tuple[str, ...]
    """Folders beside the names that are expected."""
    faults: tuple[str, ...]
    """What is not as it should be, each a sentence about a file or a name."""


def take_inventory(expected: Expected, folder: Path) -> Inventory:
    """Hold a folder against what a whole fetch would have."""
    files = sorted(
        path for path in folder.glob(expected.files.replace("{}", "*")) if path.is_file()
    )
    faults: list[str] = []
    absent: tuple[int, ...] = ()
    if expected.numbers:
        absent, odd = _absent(expected, files, folder)
        faults += odd
    if expected.count is not None and len(files) != expected.count:
        faults.append(f"{len(files)} files are there, {expected.count} were published")
    rows: int | None = None
    for path in files:
        if path.suffix == ".parquet":
            number, fault = _rows(path, expected.columns)
            rows = (rows or 0) + number
            faults += [f"{path.relative_to(folder)}: {fault}"] if fault else []
        elif path.stat().st_size == 0:
            faults.append(f"{path.relative_to(folder)}: is empty")
    if expected.records is not None:
        rows = sum(_records(path) for path in files)
        if abs(rows - expected.records) > expected.records / 100:
            faults.append(f"{rows} records are there, about {expected.records} were published")
    if expected.rows is not None and rows != expected.rows:
        faults.append(f"{rows or 0} rows are there, {expected.rows} were published")
    found = {part for path in files for part in path.relative_to(folder).parts[:-1]}
    faults += [f"{name} is not there" for name in expected.names if name not in found]
    others = _others(expected, files) if expected.names else ()
    return Inventory(
        len(files), sum(path.stat().st_size for path in files), rows, absent, others, tuple(faults)
    )


def _absent(
    expected: Expected, files: list[Path], folder: Path
) -> tuple[tuple[int, ...], list[str]]:
    """Return the numbers that were never published and are not there, and what else is odd."""
    assert expected.numbers is not None
    first, last = expected.numbers
    pattern = re.escape(expected.files).replace(r"\{\}", r"(\d+)").replace(r"\*", "[^/]*")
    matches = [re.fullmatch(pattern, path.relative_to(folder).as_posix()) for path in files]
    there = {int(match[1]) for match in matches if match}
    missing = set(range(first, last + 1)) - there
    lost = sorted(missing - set(expected.absent))
    faults = [f"{len(lost)} files are missing: {_listed(lost)}"] if lost else []
    beyond = sorted(there - set(range(first, last + 1)))
    faults += [f"numbers that were never published: {_listed(beyond)}"] if beyond else []
    return tuple(sorted(missing & set(expected.absent))), faults


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (" and more" if len(numbers) > 20 else "")


def _rows(path: Path, columns: tuple[str, ...]) -> tuple[int, str]:
    try:
        with pq.ParquetFile(path) as file:
            lacking = [name for name in columns if name not in file.schema_arrow.names]
            rows: int = file.metadata.num_rows
    except (OSError, pa.ArrowException):
        return 0, "is no readable table"
    return rows, f"lacks the columns {', '.join(lacking)}" if lacking else ""


def _records(path: Path) -> int:
    try:
        return sum(isinstance(value, dict) for value in read_values(path))
    except DataError:
        return 0


def _others(expected: Expected, files: list[Path]) -> tuple[str, ...]:
    """Return the folders of files that stand beside the names."""
    return tuple(sorted({path.parent.name for path in files} - set(expected.names)))


def lines(found: Inventory) -> Iterator[str]:
    """Yield what an inventory says, line by line."""
    rows = "" if found.rows is None else f", {found.rows} rows"
    yield f"{found.files} files, {found.bytes} bytes{rows}"
    if found.absent:
        yield f"never published: {', '.join(map(str, found.absent))}"
    if found.others:
        yield f"also there: {', '.join(found.others)}"
    yield from found.faults
