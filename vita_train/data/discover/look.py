"""A first registry and recipe for a folder of media and JSON, and what in it was not understood.

Everything is a guess from names and contents, written down to be read and corrected; nothing in the
folder is changed.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vita_train.data.discover.files import (
    RECORDS,
    SPLITS,
    RecordFile,
    read_file,
    walk,
)
from vita_train.data.media.endings import ENDINGS, media_kind
from vita_train.data.sources.registry import Dataset, Registry, SplitSource
from vita_train.errors import UserError

#: A text beside a file, ``cat.txt`` of ``cat.jpg``: the task it makes, and how the task is put.
_BESIDE = {
    "image": ("captions", "caption", "<image>\nDescribe the image."),
    "audio": ("transcripts", "asr", "<audio>\nTranscribe the recording."),
}
_LONGEST_TEXT = 10_000


@dataclass
class Findings:
    """What a folder holds, as far as it was understood."""

    registry: Registry
    records: dict[str, int]
    """Dataset to its training records."""
    media: dict[str, frozenset[str]]
    """Dataset to the kinds of media in it."""
    written: dict[str, list[dict[str, Any]]]
    """Record files to write: those made of texts beside media."""
    notes: list[str]
    """What was not understood, or guessed and better looked at."""


def look_at(folder: Path, out: Path) -> Findings:
    """Look through a folder.

    Args:
        folder: media, record files (`docs/reference/records.md`), and texts beside media
            (``cat.txt`` of ``cat.jpg``).
        out: where the registry will lie; its paths are relative to that.

    Raises:
        UserError: it is no folder, or nothing in it can be trained on.
    """
    if not folder.is_dir():
        raise UserError(
            "is not a folder",
            code="VT-USE-029",
            where=str(folder),
            remedy="give the folder that holds records and media",
        )
    look = _Look(folder, out)
    record_files = []
    for path in walk(folder):
        if media_kind(path):
            look.media[path.name].append(path)
        elif path.suffix.lower() in RECORDS:
            record_files.append(path)
    # Only now are all media known, below whose folders a file's names are looked for.
    for path in record_files:
        if file := read_file(path, folder, look.notes):
            look.add(file)
    look.add_texts()
    return look.findings()


@dataclass
class _Dataset:
    """What is known of a dataset."""

    splits: dict[str, SplitSource] = field(default_factory=dict)
    tasks: Counter[str] = field(default_factory=Counter)
    """What its records look like; the most common is taken."""
    records: int = 0
    """For training."""
    kinds: set[str] = field(default_factory=set)


@dataclass
class _Look:
    """What has been seen of a folder so far."""

    folder: Path
    out: Path
    media: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    """Name of a media file to where files of that name lie."""
    named: set[Path] = field(default_factory=set)
    """Media that are in a record."""
    datasets: dict[str, _Dataset] = field(default_factory=lambda: defaultdict(_Dataset))
    written: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, file: RecordFile) -> None:
        """Take a record file as a split of its dataset."""
        dataset, shown = self.datasets[file.dataset], file.path.relative_to(self.folder)
        if file.split in dataset.splits:
            self.notes.append(f"{shown}: left out, another file is {file.dataset}/{file.split}")
            return
        roots = {key: self._root(key, names, file) for key, names in file.names.items()}
        dataset.splits[file.split] = SplitSource(
            records=self._relative(file.path),
            roots={key: self._relative(root) for key, root in roots.items()},
        )
        dataset.tasks += file.tasks
        dataset.records += file.used if file.split == "train" else 0
        kinds = {media_kind(name) for names in file.names.values() for name in names}
        dataset.kinds |= {kind for kind in kinds if kind}

    def _root(self, key: str, names: Sequence[str], file: RecordFile) -> Path:
        """Find the folder below which most of the named files lie."""
        votes: Counter[Path] = Counter()
        for name in names:
            parts = PurePosixPath(name).parts
            votes.update(
                {
                    path.parents[len(parts) - 1]
                    for path in self.media.get(parts[-1], ())
                    if path.parts[-len(parts) :] == parts
                }
            )
        # Of several that hold as many, the one nearest the top, and always the same one.
        root = max(
            votes, key=lambda path: (votes[path], -len(path.parts), str(path)), default=self.folder
        )
        missing = [name for name in names if not (root / name).is_file()]
        self.named |= {root / name for name in names}
        if missing:
            self.notes.append(
                f"{file.path.relative_to(self.folder)}: {len(missing)} of {len(names)} files are "
                f"not below {root} ({key}), the first is {missing[0]}"
            )
        return root

    def add_texts(self) -> None:
        """Make records of texts that lie beside media which no record names."""
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for path in sorted(path for found in self.media.values() for path in found):
            kind, text = media_kind(path), path.with_suffix(".txt")
            if path in self.named or kind is None or kind not in _BESIDE or not text.is_file():
                continue
            said = text.read_bytes()[:_LONGEST_TEXT].decode("utf-8", errors="replace").strip()
            if said:
                self.named.add(path)
                place = path.relative_to(self.folder).as_posix()
                turns = (("human", _BESIDE[kind][2]), ("gpt", said))
                rows[kind].append(
                    {
                        "id": place,
                        kind: place,
                        "conversations": [{"from": role, "value": value} for role, value in turns],
                    }
                )
        for medium, (wanted, task, _) in _BESIDE.items():
            if rows[medium]:
                name = f"{wanted}_beside" if wanted in self.datasets else wanted
                self.datasets[name] = _Dataset(
                    splits={
                        "train": SplitSource(
                            records=f"{name}.json", roots={medium: self._relative(self.folder)}
                        )
                    },
                    tasks=Counter({task: len(rows[medium])}),
                    records=len(rows[medium]),
                    kinds={medium},
                )
                self.written[f"{name}.json"] = rows[medium]

    def findings(self) -> Findings:
        """Return what the folder holds.

        Raises:
            UserError: nothing of it can be trained on.
        """
        notes = [*self.notes, *self._unused(), *_doubts(self.datasets)]
        if not any(dataset.records for dataset in self.datasets.values()):
            raise UserError(
                "\n  ".join(["holds no records to train on", *notes]),
                code="VT-USE-030",
                where=str(self.folder),
                remedy="write records as in docs/reference/records.md, or a text beside each image "
                "or recording (cat.txt of cat.jpg)",
            )
        order = list(dict.fromkeys(SPLITS.values()))
        registry = Registry(
            datasets={
                name: Dataset(
                    task=dataset.tasks.most_common(1)[0][0],
                    splits={
                        split: dataset.splits[split] for split in order if split in dataset.splits
                    },
                )
                for name, dataset in self.datasets.items()
            }
        )
        return Findings(
            registry,
            {name: dataset.records for name, dataset in self.datasets.items()},
            {name: frozenset(dataset.kinds) for name, dataset in self.datasets.items()},
            self.written,
            notes,
        )

    def _unused(self) -> list[str]:
        notes = []
        for kind in ENDINGS:
            left = sorted(
                path
                for found in self.media.values()
                for path in found
                if path not in self.named and media_kind(path) == kind
            )
            if left:
                notes.append(
                    f"{len(left)} {kind} files are in no record and have no text beside them, the "
                    f"first is {left[0]}"
                )
        return notes

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), self.out.resolve())).as_posix()


def _doubts(datasets: Mapping[str, _Dataset]) -> list[str]:
    """Return notes on datasets that no stage can train on, or whose task is unclear."""
    notes = []
    if orphans := [name for name, dataset in datasets.items() if "train" not in dataset.splits]:
        notes.append(f"{', '.join(orphans)}: no split is for training; rename one in the registry")
    for name, dataset in datasets.items():
        if len(dataset.tasks) > 1:
            notes.append(
                f"{name}: taken as {dataset.tasks.most_common(1)[0][0]}, but records look like "
                + ", ".join(f"{kind} ({number})" for kind, number in dataset.tasks.most_common())
            )
    return notes
