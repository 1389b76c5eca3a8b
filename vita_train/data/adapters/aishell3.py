"""AISHELL-3: ``{train,test}/wav/SPEAKER/UTTERANCE.wav`` beside ``{train,test}/content.txt``, whose
lines give each syllable and its pinyin in turn; the pinyin goes.

Its test speakers are among those of training, as the corpus has it.
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
        DataError: the transcripts are not there, or a split has no record.
    """
    return adapt_splits(given, _rows)


def _rows(root: Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    for split in ("train", "test"):
        for line in lines_of(root / split / "content.txt"):
            file, _, content = line.strip().partition("\t")
            text = "".join(content.split()[::2])
            audio = f"{split}/wav/{file[:7]}/{file}"
            yield split, entry_of(file.removesuffix(".wav"), text, root, audio)
