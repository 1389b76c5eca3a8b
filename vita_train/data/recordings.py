"""Recordings with transcripts to records, a registry and splits that share no speaker.

A transcript is a text of the same stem (``a.txt``, ``a.lab`` or ``a.normalized.txt`` of ``a.wav``),
a line of a ``*.trans.txt`` beside it (LibriSpeech: the stem, a space, the text), or a row of a
table. Its text is composed (Unicode NFC), white space becomes single spaces, and nothing else is
changed unless it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vita_train.data.discover.files import walk
from vita_train.data.recording_table import listed, read_table
from vita_train.data.sources.files import write_records
from vita_train.data.sources.registry import Dataset, Registry, SplitSource
from vita_train.data.sources.splitting import TRAIN
from vita_train.data.sources.stamps import normalise_transcript
from vita_train.errors import DataError, UserError
from vita_train.recipe.yaml_tree import dump_yaml
from vita_train.storage.whole_file import whole_file

AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".wma"}
_TEXTS = (".txt", ".lab", ".normalized.txt")
_TRANS = ".trans.txt"
_LONGEST = 100_000
PROMPT = "<audio>\nTranscribe the speech."


@dataclass
class Recordings:
    """What a folder holds. Every recording is among the records or the skipped."""

    records: list[dict[str, Any]] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)
    """Of each record; empty where it has none."""
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, file: str, reason: str) -> None:
        """Note what is not used."""
        self.skipped.append({"file": file, "reason": reason})

    def add(
        self, name: str, audio: str, spoken: str, speaker: str, settings: RecordingSettings
    ) -> None:
        """Add the record of a recording; one whose transcript is empty is skipped."""
        text = " ".join(unicodedata.normalize("NFC", spoken).split())
        text = normalise_transcript(text) if settings.normalise else text
        if not text:
            self.skip(name, "empty transcript")
            return
        turns = [{"from": "human", "value": settings.prompt}, {"from": "gpt", "value": text}]
        self.records.append({"id": name, "audio": audio, "conversations": turns})
        self.speakers.append(speaker)

    def require(self, folder: Path) -> None:
        """Refuse a folder of which nothing can be used.

        Raises:
            UserError: with the reasons.
        """
        if self.records:
            return
        reasons = Counter(entry["reason"] for entry in self.skipped)
        raise UserError(
            "holds no recording with a transcript: "
            + (", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "no audio"),
            code="VT-USE-164",
            where=str(folder),
            remedy="put a text of the same stem beside each recording, or give --table",
        )


@dataclass(frozen=True)
class RecordingSettings:
    """How records are made."""

    prompt: str = PROMPT
    normalise: bool = False
    """Lower case, letters, digits and apostrophes only."""
    speaker: str = r"^([^/]+)/"
    """A regular expression whose first group is the speaker in a path below the folder."""


def read_recordings(
    folder: Path, settings: RecordingSettings, table: Path | None = None
) -> Recordings:
    """Find recordings and their transcripts.

    Args:
        folder: holds the recordings.
        settings: how records are made.
        table: CSV or TSV with a header: audio, text and perhaps speaker; without one, texts beside
            the recordings.

    Raises:
        UserError: the folder, the table or the pattern is none, or nothing can be used.
    """
    if not folder.is_dir():
        raise UserError(
            "is not a folder",
            code="VT-USE-161",
            where=str(folder),
            remedy="give the folder of the recordings",
        )
    try:
        pattern = re.compile(settings.speaker)
    except re.error as error:
        raise UserError(
            f"is no regular expression: {error}",
            code="VT-USE-162",
            where=f"--speaker {settings.speaker}",
            remedy="its first group, (...), is the speaker",
        ) from None
    if not pattern.groups:
        raise UserError(
            "has no group",
            code="VT-USE-163",
            where=f"--speaker {settings.speaker}",
            remedy="put the speaker into (...)",
        )
    names = [path.relative_to(folder).as_posix() for path in walk(folder)]
    found = Recordings()
    if table is None:
        texts = _beside(folder, names, found)
        speakers: Mapping[str, str] = {}
    else:
        texts, speakers = _from_table(table, folder, set(names), found)
    said = {entry["file"] for entry in found.skipped}
    for name in [name for name in names if PurePosixPath(name).suffix.lower() in AUDIO]:
        if name not in texts:
            if name not in said:
                found.skip(name, "no transcript")
            continue
        match = pattern.search(name)
        speaker = speakers.get(name) or (match.group(1) or "" if match else "")
        found.add(name, name, texts[name], speaker, settings)
    found.require(folder)
    return found


def split_speakers(
    speakers: list[str], parts: Mapping[str, float], seed: int = 0
) -> dict[str, str]:
    """Return the split of each speaker: those with the smallest hashes fill the parts up to their
    share of the recordings, each with one speaker at least; the others train.

    Raises:
        DataError: there are too few speakers.
    """
    counts = Counter(speakers)
    order = sorted(counts, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
    if len(order) <= len(parts):
        raise DataError(
            f"{len(order)} speakers cannot be divided into train and {', '.join(parts)}",
            code="VT-DATA-044",
            where="speakers",
            remedy="give another --speaker pattern, fewer splits (--dev 0, --test 0), or "
            "--any-speaker to let splits share speakers",
        )
    splits: dict[str, str] = {}
    rest = iter(order)
    left = len(order)
    for number, (part, share) in enumerate(parts.items()):
        taken = 0
        while (not taken or taken < share * len(speakers)) and left > len(parts) - number:
            name = next(rest)
            splits[name] = part
            taken += counts[name]
            left -= 1
    return {name: splits.get(name, TRAIN) for name in order}


def write_recordings(
    found: Recordings,
    folder: Path,
    out: Path,
    name: str,
    parts: Mapping[str, float],
    *,
    seed: int = 0,
    any_speaker: bool = False,
) -> Registry:
    """Write a record file for each split, the registry and the list of what was skipped.

    Raises:
        DataError: speakers are unknown or too few.
        UserError: a registry is there already.
    """
    registry_path = out / "registry.yaml"
    if registry_path.exists():
        raise UserError(
            "is already there",
            code="VT-USE-165",
            where=str(registry_path),
            remedy="give another --out",
        )
    keys = [record["id"] for record in found.records] if any_speaker else found.speakers
    if not all(keys):
        first = found.records[keys.index("")]["id"]
        raise DataError(
            f"the speaker of {keys.count('')} recordings is unknown, the first is {first}",
            code="VT-DATA-045",
            where=str(folder),
            remedy="give a --speaker pattern that finds it in the path, a table with a speaker "
            "column, or --any-speaker to let splits share speakers",
        )
    splits = split_speakers(keys, parts, seed)
    sources = {}
    root = Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()
    for split in (TRAIN, *parts):
        rows = [
            record for record, key in zip(found.records, keys, strict=True) if splits[key] == split
        ]
        write_records(out / f"{name}.{split}.json", rows)
        sources[split] = SplitSource(records=f"{name}.{split}.json", roots={"audio": root})
    registry = Registry(datasets={name: Dataset(task="asr", splits=sources)})
    skipped = "".join(json.dumps(entry, ensure_ascii=True) + "\n" for entry in found.skipped)
    (out / "skipped.jsonl").write_text(skipped, encoding="utf-8")
    with whole_file(registry_path) as stream:
        stream.write(dump_yaml(registry.model_dump(mode="json")))
    return registry


def _beside(folder: Path, names: list[str], found: Recordings) -> dict[str, str]:
    """Texts of recordings by their stems, and by the lines of lists beside them."""
    listed = set(names)
    lines: dict[str, str] = {}
    for name in [name for name in names if name.endswith(_TRANS)]:
        for line in _list(folder / name):
            stem, _, words = line.strip().partition(" ")
            lines[(PurePosixPath(name).parent / stem).as_posix()] = words
    texts: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in [name for name in names if PurePosixPath(name).suffix.lower() in AUDIO]:
        stem = name[: -len(PurePosixPath(name).suffix)]
        if stem in taken:
            found.skip(name, f"same stem as {taken[stem]}")
            continue
        beside = next((stem + ending for ending in _TEXTS if stem + ending in listed), None)
        text = lines.get(stem)
        if text is None and beside is not None:
            read = _text(folder / beside)
            if read is None:
                found.skip(name, "transcript is not UTF-8")
                continue
            text = read
        if text is not None:
            taken[stem] = name
            texts[name] = text
    return texts


def _list(path: Path) -> list[str]:
    """The lines of a list of transcripts, however long it is."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read: {error}",
            code="VT-DATA-140",
            where=str(path),
            remedy="save the list as text in UTF-8",
        ) from error


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return stream.read(_LONGEST * 4).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _from_table(
    table: Path, folder: Path, names: set[str], found: Recordings
) -> tuple[dict[str, str], dict[str, str]]:
    texts: dict[str, str] = {}
    speakers: dict[str, str] = {}
    for where, row in read_table(table):
        name = listed(row["audio"], folder)
        if name not in names:
            found.skip(where, "names no recording of the folder")
        elif name in texts:
            found.skip(where, "names a recording again")
        else:
            texts[name] = row["text"]
            if "speaker" in row:
                speakers[name] = row["speaker"].strip()
    return texts, speakers
