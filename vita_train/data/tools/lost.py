"""Files that records name and that cannot be used, and record files without them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from vita_train.data.check.examine import plain_settings
from vita_train.data.media.apart import Decoder
from vita_train.data.media.door import Kind
from vita_train.data.sources.source import RecordSource
from vita_train.data.sources.texts import RowError, read_values
from vita_train.data.tools.decoded import Fault, decoded
from vita_train.errors import DataError
from vita_train.recipe.data import AudioSpec
from vita_train.storage.whole_file import whole_file


def lost_files(
    source: RecordSource, kind: Kind, audio: AudioSpec | None = None
) -> Iterator[Fault | None]:
    """Decode the files of one kind; yield for each record what is wrong, or None.

    Raises:
        DataError: the record file cannot be read, or a media root is missing or empty.
    """
    with Decoder(plain_settings(audio)) as decoder:
        for row in source.checked_rows():
            found = list(decoded(decoder, row, source.roots, kind))
            yield next((fault for _, fault in found if isinstance(fault, Fault)), None)


def remove_rows(path: Path, rows: Collection[int], out: Path) -> tuple[int, int]:
    """Write a record file without some of its rows; the input stays as it is.

    Returns:
        Records kept, records left out.

    Raises:
        DataError: the file cannot be read, or ``out`` is the file itself.
    """
    if out.exists() and out.samefile(path):
        raise DataError(
            "would be overwritten",
            code="VT-DATA-051",
            where=str(path),
            remedy="give another file to write",
        )
    kept = dropped = 0
    with whole_file(out) as stream:
        stream.write("[")
        for row, value in enumerate(read_values(path)):
            if row in rows:
                dropped += 1
                continue
            if isinstance(value, RowError):
                raise DataError(
                    f"row {row} is not JSON and not among the lost: {value.detail}",
                    code="VT-DATA-052",
                    where=str(path),
                    remedy="check the file first, and take its list",
                )
            stream.write((",\n" if kept else "\n") + json.dumps(value, ensure_ascii=True))
            kept += 1
        stream.write("\n]\n")
    return kept, dropped


def rows_of(path: Path) -> set[int]:
    """Return the row numbers of a list of lost or rejected records, JSON Lines.

    Raises:
        DataError: it is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return {int(json.loads(line)["row"]) for line in lines if line.strip()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"is no list of lost records: {error}",
            code="VT-DATA-053",
            where=str(path),
            remedy="give what check_image_lost, check_audio_lost or data check --rejects wrote",
        ) from error
