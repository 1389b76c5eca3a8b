"""Parquet files read by row group, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vita_train.errors import DataError


@contextmanager
def opened(path: Path, columns: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """Open a file that has some columns.

    Raises:
        DataError: it is damaged, or lacks columns.
    """
    try:
        with pq.ParquetFile(path) as file:
            absent = [name for name in columns if name not in file.schema_arrow.names]
            if absent:
                raise DataError(
                    f"lacks the columns {', '.join(absent)}",
                    code="VT-DATA-091",
                    where=str(path),
                    remedy="see whether this is the file that was meant, and fetch it again",
                )
            yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"cannot be read as Parquet: {type(error).__name__}",
            code="VT-DATA-092",
            where=str(path),
            remedy="fetch it again",
        ) from error
