"""MAGICDATA Mandarin read speech: ``{train,dev,test}/SPEAKER/UTTERANCE.wav`` beside
``{train,dev,test}/TRANS.txt``, a table of file, speaker and text with a line of names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected
from vita_train.data.adapters.speech import adapt_splits, entry_of, lines_of
from vita_train.data.sources.registry import Dataset


def adapt(given: Input) -> Dataset:
    """Write the records and return the dataset.

    Raises:
        DataError: a split has no record.
    """
    return adapt_splits(given, _rows)


def _rows(root: Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    for split in ("train", "dev", "test"):
        table = root / split / "TRANS.txt"
        for line in lines_of(table)[1:] if table.is_file() or split == "train" else ():
            file, _, rest = line.strip().partition("\t")
            speaker, _, text = rest.partition("\t")
            name = file.removesuffix(".wav")
            yield split, entry_of(name, "".join(text.split()), root, f"{split}/{speaker}/{file}")
