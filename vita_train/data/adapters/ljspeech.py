"""LJ Speech: ``wavs/UTTERANCE.wav`` beside ``metadata.csv``, lines of id, text and normalised text
between bars; the last is taken.

One speaker: the splits are made by chapter, the first part of an id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected
from vita_train.data.adapters.speech import adapt_splits, by_speaker, entry_of, lines_of
from vita_train.data.sources.registry import Dataset


def adapt(given: Input) -> Dataset:
    """Write the records and return the dataset.

    Raises:
        DataError: the transcripts are not there, or a split has no record.
    """
    return adapt_splits(given, _rows)


def _rows(root: Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    lines = [line.split("|") for line in lines_of(root / "metadata.csv") if line.strip()]
    splits = by_speaker((name.partition("-")[0] for name, *_ in lines), held_out=2)
    for name, *texts in lines:
        text = " ".join(texts[-1].split()) if texts else ""
        yield splits[name.partition("-")[0]], entry_of(name, text, root, f"wavs/{name}.wav")
