"""What adapters of speech corpora share: a recording and its transcript as a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected, missing, write_rows
from vita_train.data.sources.registry import Dataset, SplitSource

QUESTION = "<audio>\nWrite down what you hear."
#: Beginnings of the folders of a corpus by split.
_SPLITS = {"train": "train", "dev": "dev", "test": "test"}

Rows = Callable[[Path, str], Iterator[dict[str, Any] | Rejected]]


def recording(name: str, text: str, audio: str) -> dict[str, Any]:
    """Return the record of a recording."""
    return {
        "id": name,
        "audio": audio,
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": text}],
    }


def adapt_parts(given: Input, rows: Rows) -> Dataset:
    """Write the records of all parts of a corpus whose folders begin with their split, and return
    the dataset.

    Args:
        given: the corpus; its root ``audio`` is the folder with the parts.
        rows: gives the records of a part: ``rows(folder of the part, its name)``.

    Raises:
        DataError: there is no part for training.
    """
    root = Path(given.root("audio"))
    found: dict[str, Iterable[dict[str, Any] | Rejected]] = {}
    for split, begin in _SPLITS.items():
        parts = sorted(path for path in root.glob(f"{begin}-*") if path.is_dir())
        if not parts:
            if split == "train":
                raise missing(root / "train-*")
            continue
        found[split] = (row for part in parts for row in rows(part, part.name))
    return written(given, root, found)


def adapt_splits(
    given: Input, rows: Callable[[Path], Iterable[tuple[str, dict[str, Any] | Rejected]]]
) -> Dataset:
    """Write the records of a corpus whose rows come with the names of their splits, and return the
    dataset.

    Args:
        given: the corpus; its root ``audio`` is its folder.
        rows: gives the splits and records of the corpus: ``rows(its folder)``.

    Raises:
        DataError: a split has no record.
    """
    root = Path(given.root("audio"))
    return written(given, root, by_split(rows(root)))


def written(
    given: Input, root: Path, splits: Mapping[str, Iterable[dict[str, Any] | Rejected]]
) -> Dataset:
    """Write the records of splits, whose recordings lie below ``root``, and return the dataset.

    Raises:
        DataError: a split has no record.
    """
    sources = {}
    for split, rows in splits.items():
        records = given.out / f"{split}.jsonl"
        write_rows(records, rows)
        sources[split] = SplitSource(records=records.name, roots={"audio": str(root)})
    return Dataset(task=str(given.entry.task), splits=sources)


def by_speaker(speakers: Iterable[str], held_out: int = 5) -> dict[str, str]:
    """Return the split of each speaker of a corpus that has none of its own: of their sorted names
    the last few are for test, as many before them for dev, and all others for training.

    With fewer than four times that many, one is held out for each.
    """
    names = sorted(set(speakers))
    few = held_out if len(names) >= 4 * held_out else 1
    return {
        name: "test" if place < few else "dev" if place < 2 * few else "train"
        for place, name in enumerate(reversed(names))
    }


def by_split(
    rows: Iterable[tuple[str, dict[str, Any] | Rejected]],
) -> dict[str, list[dict[str, Any] | Rejected]]:
    """Return rows that come with the names of their splits, split by split; train is first."""
    found: dict[str, list[dict[str, Any] | Rejected]] = {"train": [], "dev": [], "test": []}
    for split, row in rows:
        found[split].append(row)
    return {split: listed for split, listed in found.items() if listed}


def entry_of(name: str, text: str, root: Path, audio: str) -> dict[str, Any] | Rejected:
    """Return the record of a recording, or why there is none."""
    if not text:
        return Rejected(name, "no transcript")
    if not (root / audio).is_file():
        return Rejected(name, "no recording")
    return recording(name, text, audio)


def lines_of(path: Path) -> list[str]:
    """Return the lines of a transcript file. Unicode's other separators end none: ``splitlines``
    would cut a transcript that holds one.

    Raises:
        DataError: it is not there, or no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise missing(path) from error
    return text.removesuffix("\n").split("\n") if text else []
