"""Tables of recordings: rows of a CSV or TSV, and the pieces that they name of long recordings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from vita_train.errors import UserError

#: Names of columns, as tables of public corpora have them.
_COLUMNS = {
    "audio": ("audio", "path", "file", "wav", "audio_path", "audio_filepath", "filename"),
    "text": ("text", "transcript", "sentence", "transcription", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "spk_id"),
    "start": ("start", "begin", "start_time", "begin_time", "offset"),
    "end": ("end", "stop", "end_time"),
}


def read_table(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each row of a CSV or TSV, and its values by what they are: audio, text,
    and speaker, start and end where there are such columns.

    Raises:
        UserError: it is no table, or has no column for audio or text.
    """
    try:
        content = table.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}",
            code="VT-USE-166",
            where=str(table),
            remedy="give a CSV or TSV in UTF-8",
        ) from error
    stream = io.StringIO(content, newline="")
    if "\t" in content.split("\n", 1)[0]:  # public TSV files are written without quoting
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(stream)
    try:
        chosen = _columns(reader.fieldnames or [], table)
        for row in reader:
            values = {what: str(row.get(column) or "") for what, column in chosen.items()}
            yield f"{table.name}:{reader.line_num}", values
    except csv.Error as error:
        raise UserError(
            f"is no table: {error}",
            code="VT-USE-168",
            where=f"{table}:{reader.line_num}",
            remedy="correct the line",
        ) from error


def _columns(header: Iterable[str | None], table: Path) -> dict[str, str]:
    """Which column of a table says what."""
    columns = {name.strip().lower(): name for name in header if name}
    chosen = {
        what: column
        for what, known in _COLUMNS.items()
        if (column := next((columns[name] for name in known if name in columns), None))
    }
    for what in ("audio", "text"):
        if what not in chosen:
            raise UserError(
                f"has no column for {what}; its columns are {', '.join(columns) or 'none'}",
                code="VT-USE-167",
                where=str(table),
                remedy=f"call it one of {', '.join(_COLUMNS[what])}",
            )
    return chosen


def listed(name: str, folder: Path) -> str:
    """A path of a table below the folder; tables also name files by absolute paths."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(folder.resolve().as_posix()):
        path = path.relative_to(folder.resolve().as_posix())
    return path.as_posix()
