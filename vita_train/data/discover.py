"""A first registry and recipe for a folder of media and JSON, and what in it was not understood.

Everything is a guess from names and contents, written down to be read and corrected; nothing in the
folder is changed.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vita_train.data.constants import PLACEHOLDERS
from vita_train.data.sources.files import write_records
from vita_train.data.sources.reading import Reject, Row, read_records
from vita_train.data.sources.registry import Dataset, Registry, SplitSource
from vita_train.errors import DataError, UserError
from vita_train.recipe.yaml_tree import dump_yaml

REGISTRY, RECIPE = "registry.yaml", "recipe.yaml"
_RECORDS = {".json", ".jsonl", ".ndjson"}
_MEDIA = {
    "image": {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"},
    "audio": {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a"},
    "video": {".mp4", ".webm", ".mkv", ".avi", ".mov"},
}
_KIND = {suffix: kind for kind, suffixes in _MEDIA.items() for suffix in suffixes}
_SPLITS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
_DESCRIBE, _TRANSCRIBE = (
    re.compile(r"describ|caption", re.I),
    re.compile(r"transcri|write down", re.I),
)
#: A text beside a file, ``cat.txt`` of ``cat.jpg``: the task it makes, and how the task is put.
_BESIDE = {
    "image": ("captions", "caption", "<image>\nDescribe the image."),
    "audio": ("transcripts", "asr", "<audio>\nTranscribe the recording."),
}
_LONGEST_TEXT = 10_000


class _Anywhere(dict[str, Path]):
    """Roots of records whose roots are not known yet: every key is one, and without a key it is
    ``image``."""

    def __contains__(self, key: object) -> bool:
        return True


@dataclass
class _File:
    """A record file and what it says."""

    path: Path
    dataset: str
    split: str
    used: int = 0
    rejected: int = 0
    first_reject: str = ""
    tasks: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Root key to the media files named below it."""


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
    paths = list(walk(folder))
    media: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path.suffix.lower() in _KIND:
            media[path.name].append(path)
    notes: list[str] = []
    files = [
        found
        for path in paths
        if path.suffix.lower() in _RECORDS
        for found in [_read(path, folder, notes)]
        if found
    ]
    named: set[Path] = set()
    datasets: dict[str, dict[str, SplitSource]] = defaultdict(dict)
    tasks: dict[str, Counter[str]] = defaultdict(Counter)
    records: Counter[str] = Counter()
    kinds: dict[str, set[str]] = defaultdict(set)
    for file in files:
        if file.split in datasets[file.dataset]:
            notes.append(
                f"{file.path.relative_to(folder)}: left out, another file is "
                f"{file.dataset}/{file.split}"
            )
            continue
        roots = {
            key: _root(key, names, file, media, folder, named, notes)
            for key, names in file.names.items()
        }
        datasets[file.dataset][file.split] = SplitSource(
            records=_relative(file.path, out),
            roots={key: _relative(root, out) for key, root in roots.items()},
        )
        tasks[file.dataset] += file.tasks
        records[file.dataset] += file.used if file.split == "train" else 0
        kinds[file.dataset] |= {
            _KIND[Path(name).suffix.lower()]
            for names in file.names.values()
            for name in names
            if Path(name).suffix.lower() in _KIND
        }
    written = _beside(folder, out, media, named, datasets, tasks, records, kinds)
    notes += _unused(media, named)
    if orphans := [name for name, splits in datasets.items() if "train" not in splits]:
        notes.append(f"{', '.join(orphans)}: no split is for training; rename one in the registry")
    for name, count in tasks.items():
        if len(count) > 1:
            notes.append(
                f"{name}: taken as {count.most_common(1)[0][0]}, but records look like "
                + ", ".join(f"{kind} ({number})" for kind, number in count.most_common())
            )
    if not records.total():
        raise UserError(
            "\n  ".join(["holds no records to train on", *notes]),
            code="VT-USE-030",
            where=str(folder),
            remedy="write records as in docs/reference/records.md, or a text beside each image or "
            "recording (cat.txt of cat.jpg)",
        )
    registry = Registry(
        datasets={
            name: Dataset(
                task=tasks[name].most_common(1)[0][0],
                splits={
                    split: splits[split]
                    for split in dict.fromkeys(_SPLITS.values())
                    if split in splits
                },
            )
            for name, splits in datasets.items()
        }
    )
    return Findings(
        registry,
        dict(records),
        {name: frozenset(found) for name, found in kinds.items()},
        written,
        notes,
    )


def write_project(findings: Findings, name: str, out: Path) -> list[Path]:
    """Write registry, recipe and the records made of texts; returns the files.

    Args:
        findings: what the folder holds.
        name: of the recipe; empty makes one of the name of ``out``.
        out: where they go.

    Raises:
        UserError: one of them is there already.
    """
    files = [out / REGISTRY, out / RECIPE, *(out / file for file in findings.written)]
    if there := [path for path in files if path.exists()]:
        raise UserError(
            "is already there",
            code="VT-USE-031",
            where=str(there[0]),
            remedy="remove it, or give another folder with --out",
        )
    out.mkdir(parents=True, exist_ok=True)
    for file, rows in findings.written.items():
        write_records(out / file, rows)
    head = (
        "# Written by vita-train data init. Tasks and splits are guesses: look them over "
        "(docs/your-data.md).\n"
    )
    files[0].write_text(
        head + dump_yaml(findings.registry.model_dump(mode="json")), encoding="utf-8"
    )
    files[1].write_text(_recipe(findings, name or _plain(out)), encoding="utf-8")
    return files


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder in a fixed order; hidden ones and links to folders are passed
    over."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _read(path: Path, folder: Path, notes: list[str]) -> _File | None:
    shown = path.relative_to(folder)
    file = _File(path, *_dataset_and_split(path, folder))
    try:
        for row in read_records(path, _Anywhere(image=folder)):
            if isinstance(row, Reject):
                file.rejected += 1
                file.first_reject = file.first_reject or f"record {row.row}: {row.detail}"
            else:
                file.used += 1
                file.tasks[_task(row)] += 1
                for ref in (*row.images, *row.videos, *row.audios):
                    file.names[ref.root].append(ref.name)
    except DataError as error:
        notes.append(f"{shown}: not read: {error.what}")
        return None
    if not file.used:
        notes.append(f"{shown}: no records ({file.first_reject or 'it is empty'})")
        return None
    if file.rejected:
        notes.append(
            f"{shown}: {file.rejected} of {file.used + file.rejected} records would be rejected "
            f"({file.first_reject})"
        )
    return file


def _dataset_and_split(path: Path, folder: Path) -> tuple[str, str]:
    """``captions-test.json`` is the test split of captions; so are ``test/captions.json``,
    ``captions/test.json``."""
    words = [
        word
        for word in re.split(r"[^A-Za-z0-9]+", str(path.relative_to(folder).with_suffix("")))
        if word
    ]
    split = next(
        (_SPLITS[word.lower()] for word in reversed(words) if word.lower() in _SPLITS), "train"
    )
    rest = [word for word in words if word.lower() not in _SPLITS] or [folder.resolve().name]
    name = re.sub(r"\W+", "_", "_".join(rest)).strip("_").lower() or "data"
    return (name if name[0].isalpha() else f"data_{name}"), split


def _task(row: Row) -> str:
    asked = " ".join(turn.value for turn in row.record.conversations if turn.role == "human")
    for kind in PLACEHOLDERS:
        asked = asked.replace(f"<{kind}>", " ")
    rounds = len(row.record.conversations) // 2
    if row.audios:
        if row.record.inserted_id is not None:
            return "negative"
        return "asr" if _TRANSCRIBE.search(asked) else "speech_qa"
    if row.images or row.videos:
        return "caption" if rounds == 1 and (not asked.strip() or _DESCRIBE.search(asked)) else "qa"
    return "dialogue" if rounds > 1 else "instruct"


def _root(
    key: str,
    names: list[str],
    file: _File,
    media: dict[str, list[Path]],
    folder: Path,
    named: set[Path],
    notes: list[str],
) -> Path:
    """Find the folder below which most of the named files lie."""
    votes: Counter[Path] = Counter()
    for name in names:
        parts = PurePosixPath(name).parts
        votes.update(
            {
                path.parents[len(parts) - 1]
                for path in media.get(parts[-1], ())
                if path.parts[-len(parts) :] == parts
            }
        )
    root = (
        max(votes, key=lambda path: (votes[path], -len(path.parts), str(path))) if votes else folder
    )
    missing = [name for name in names if not (root / name).is_file()]
    named |= {root / name for name in names}
    if missing:
        notes.append(
            f"{file.path.relative_to(folder)}: {len(missing)} of {len(names)} files are not below "
            f"{root} ({key}), the first is {missing[0]}"
        )
    return root


def _beside(
    folder: Path,
    out: Path,
    media: dict[str, list[Path]],
    named: set[Path],
    datasets: dict[str, dict[str, SplitSource]],
    tasks: dict[str, Counter[str]],
    records: Counter[str],
    kinds: dict[str, set[str]],
) -> dict[str, list[dict[str, Any]]]:
    """Make records of texts that lie beside media which no record names."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(path for found in media.values() for path in found):
        kind, text = _KIND[path.suffix.lower()], path.with_suffix(".txt")
        if path in named or kind not in _BESIDE or not text.is_file():
            continue
        said = text.read_bytes()[:_LONGEST_TEXT].decode("utf-8", errors="replace").strip()
        dataset, _, asked = _BESIDE[kind]
        if said:
            named.add(path)
            place = path.relative_to(folder).as_posix()
            rows[dataset].append(
                {
                    "id": place,
                    kind: place,
                    "conversations": [
                        {"from": "human", "value": asked},
                        {"from": "gpt", "value": said},
                    ],
                }
            )
    written = {}
    for kind, (dataset, task, _) in _BESIDE.items():
        if rows[dataset]:
            name = dataset if dataset not in datasets else f"{dataset}_beside"
            datasets[name]["train"] = SplitSource(
                records=f"{name}.json", roots={kind: _relative(folder, out)}
            )
            tasks[name][task] += len(rows[dataset])
            records[name] += len(rows[dataset])
            kinds[name].add(kind)
            written[f"{name}.json"] = rows[dataset]
    return written


def _unused(media: dict[str, list[Path]], named: set[Path]) -> list[str]:
    notes = []
    for kind in _MEDIA:
        left = sorted(
            path
            for found in media.values()
            for path in found
            if path not in named and _KIND[path.suffix.lower()] == kind
        )
        if left:
            notes.append(
                f"{len(left)} {kind} files are in no record and have no text beside them, the "
                f"first is "
                f"{left[0]}"
            )
    return notes


def _plain(folder: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("._-") or "mine"


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()


_MODEL = """\
# Written by vita-train data init. Small models, trained from nothing, to see that the data are understood. For models
# that generalise, name pretrained weights, model.llm.source and model.vision.source: docs/how-to/bring-your-own-llm.md.
name: {name}
tokenizer: {{vocab_size: 512}}
model:
  dtype: float32
  llm: {{vocab_size: 512, hidden_size: 96, num_layers: 3, num_heads: 3, num_kv_heads: 3, intermediate_size: 256,
        max_positions: 4096, rope_theta: 10000.0, tie_embeddings: true}}
  vision: {{image_size: 64, patch_size: 8, hidden_size: 64, num_layers: 2, num_heads: 2, intermediate_size: 128,
           drop_path: 0.0}}
  audio_encoder: {{width: 96, conv_channels: 16, num_layers: 2, num_heads: 2, intermediate_size: 192, conv_kernel: 15,
                  relative_shift: true, dynamic_chunks: false, max_positions: 3000}}
  ctc_head: {{vocab: char}}
  audio_adapter: {{hidden_size: 96}}
data:
  source:
    mine: {{kind: records, registry: {registry}}}
  image: {{max_tiles: 1}}
launch: {{nproc: 1, threads: 1}}
"""  # noqa: E501


#: Modules that images pass through.
_SEES = ("vision", "projector")


def _recipe(findings: Findings, name: str) -> str:
    """Return the recipe: a recogniser for transcripts, the language model with images, then all
    together."""
    kinds, trained = (
        findings.media,
        [dataset for dataset, number in sorted(findings.records.items()) if number],
    )
    heard = [dataset for dataset in trained if "audio" in kinds[dataset]]
    seen = [dataset for dataset in trained if kinds[dataset] & {"image", "video"}]
    transcripts = [dataset for dataset in heard if findings.registry.tasks[dataset] == "asr"]
    silent = [dataset for dataset in trained if dataset not in heard]
    rows = {"global_batch_size": 4, "seq_len": 1024}
    stages: dict[str, Any] = {}
    if silent:
        parts = ["llm", *(_SEES if {*seen} & {*silent} else ())]
        stages["learn"] = {
            "objective": "next_token",
            "after": [],
            "data": dict.fromkeys(silent, 1.0),
            "trainable": dict.fromkeys(parts, 2e-3),
            "steps": 200,
            "batch": rows,
        }
    if transcripts:
        stages["recognise"] = {
            "objective": "ctc",
            "after": [],
            "data": dict.fromkeys(transcripts, 1.0),
            "trainable": {"audio_encoder": 2e-3, "ctc_head": 2e-3},
            "steps": 400,
            "batch": {"global_batch_size": 8},
        }
    if heard:
        encoder = {} if transcripts else {"audio_encoder": 2e-3}
        # Images that no stage before saw stand in the same files as recordings.
        unseen = {*seen} & {*heard} and not {*seen} & {*silent}
        sees = dict.fromkeys(_SEES, 2e-3) if unseen else {}
        stages["listen"] = {
            "objective": "next_token",
            "after": list(stages),
            "data": dict.fromkeys(trained, 1.0),
            "trainable": {"llm": 1e-3, "audio_adapter": 2e-3, **encoder, **sees},
            "steps": 200,
            "batch": rows,
        }
    return _MODEL.format(name=name, registry=REGISTRY) + dump_yaml({"stages": stages})
