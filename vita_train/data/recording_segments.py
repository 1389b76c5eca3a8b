"""Records of the pieces of long recordings that a table names."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from vita_train.data.recording_table import listed, read_table
from vita_train.data.recordings import Recordings, RecordingSettings
from vita_train.data.segments import Segment, cut_segments
from vita_train.errors import UserError


def read_segments(
    folder: Path, settings: RecordingSettings, table: Path, out: Path
) -> Recordings | None:
    """Cut the pieces out of long recordings that a table with columns for start and end names, and
    return their records; None where it has no such columns.

    Args:
        folder: holds the recordings.
        settings: how records are made; the pattern of speakers is held against the recording.
        table: audio, text, start and end in seconds, and perhaps speaker.
        out: folder for the pieces.

    Raises:
        UserError: as of `read_recordings`, or ``out`` holds something.
    """
    rows = list(read_table(table))
    if not rows or not {"start", "end"} <= rows[0][1].keys():
        return None
    if out.exists() and any(out.iterdir()):
        raise UserError(
            "is not empty", code="VT-USE-233", where=str(out), remedy="give another --out"
        )
    found, pattern = Recordings(), re.compile(settings.speaker)
    spoken: list[tuple[Segment, str, dict[str, str]]] = []
    for where, row in rows:
        name = listed(row["audio"], folder)
        start, end = _seconds(row["start"]), _seconds(row["end"])
        if name.startswith("../") or not os.path.isfile(folder / name):
            found.skip(where, "names no recording of the folder")
        elif start is None or end is None or end <= start:
            found.skip(where, "start and end are no seconds in this order")
        else:
            spoken.append((Segment(folder / name, start, end), name, row))
    spoken.sort(key=lambda one: (one[1], one[0].start, one[0].end))
    cuts = cut_segments([segment for segment, *_ in spoken], out)
    for (segment, name, row), cut in zip(spoken, cuts, strict=True):
        place = f"{name}#{segment.start:g}-{segment.end:g}"
        match = pattern.search(name)
        speaker = row.get("speaker", "").strip() or (match.group(1) or "" if match else "")
        if cut.name:
            found.add(place, cut.name, row["text"], speaker, settings)
        else:
            found.skip(place, cut.reason)
    found.require(folder)
    return found


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
