"""The media files of records, decoded one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vita_train.data.check.examine import media_of
from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.media.details import Details
from vita_train.data.media.door import Kind
from vita_train.data.sources.reading import Reject, Row


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used, or a record, and why."""

    row: int
    id: str
    file: str
    """The media file; empty where the record itself is at fault."""
    reason: str
    detail: str


def decoded(
    decoder: Decoder, row: Row | Reject, roots: Mapping[str, Path], kind: Kind
) -> Iterator[tuple[Path, Details | Fault]]:
    """Yield each file of a kind that a row names, with its facts or what is wrong with it.

    A row that is at fault itself is yielded once. The decoder must give details.
    """
    if isinstance(row, Reject):
        yield Path(), Fault(row.row, row.id, "", row.reason, row.detail)
        return
    path = Path()
    try:
        files = [file for file in media_of(row, roots) if file.kind == kind]
        for file in files:
            path = file.path
            details = decoder.measure(file).details
            assert details is not None, "a decoder of plain_settings gives details"
            yield path, details
    except MediaError as error:
        name = str(path) if path.name else ""
        yield path, Fault(row.row, row.id, name, error.reason, error.detail)
