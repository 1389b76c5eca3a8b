"""GigaSpeech as its repository has it: segments as ``SEGMENT.wav`` in archives, and tables of
``sid``, ``text_tn`` and more.

Text is upper case with tags for punctuation; it becomes lower case with the signs themselves.
Segments that are noise, music, silence or others are left out, as the corpus asks.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected
from vita_train.data.adapters.speech import adapt_splits, entry_of
from vita_train.data.sources.registry import Dataset

_SIGNS = {
    "<COMMA>": ",",
    "<PERIOD>": ".",
    "<QUESTIONMARK>": "?",
    "<EXCLAMATIONPOINT>": "!",
}
_GARBAGE = frozenset({"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"})


def adapt(given: Input) -> Dataset:
    """Write the records and return the dataset.

    Raises:
        DataError: a split has no record.
    """
    return adapt_splits(given, _rows)


def _rows(root: Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    sounds = {path.stem: path.relative_to(root).as_posix() for path in root.rglob("*.wav")}
    seen: set[str] = set()
    for table in sorted(root.rglob("*_metadata.csv")):
        subset = table.name.partition("_")[0]
        split = subset if subset in ("dev", "test") else "train"
        with table.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                name = row.get("sid") or ""
                if name in seen:  # larger subsets hold the smaller ones
                    continue
                seen.add(name)
                words = (row.get("text_tn") or "").split()
                if _GARBAGE.intersection(words):
                    yield split, Rejected(name, "no speech")
                else:
                    yield split, entry_of(name, plain(words), root, sounds.get(name, name))


def plain(words: list[str]) -> str:
    """Return words with tags as a line of text: signs stand behind the word before them."""
    text = ""
    for word in words:
        sign = _SIGNS.get(word)
        text += sign or f"{' ' if text else ''}{word.lower()}"
    return text
