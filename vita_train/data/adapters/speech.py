"""What adapters of speech corpora share: a recording and its transcript as a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    splits = {}
    for split, begin in _SPLITS.items():
        parts = sorted(path for path in root.glob(f"{begin}-*") if path.is_dir())
        if not parts:
            if split == "train":
                raise missing(root / "train-*")
            continue
        records = given.out / f"{split}.jsonl"
        write_rows(records, (row for part in parts for row in rows(part, part.name)))
        splits[split] = SplitSource(records=records.name, roots={"audio": str(root)})
    return Dataset(task=str(given.entry.task), splits=splits)
