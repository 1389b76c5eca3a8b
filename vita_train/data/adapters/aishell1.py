"""AISHELL-1: ``wav/{train,dev,test}/SPEAKER/UTTERANCE.wav`` beside
``transcript/aishell_transcript_v0.8.txt``.

The transcripts stand in words; Mandarin is written without spaces, so they go. Speakers of train,
dev and test differ, as the corpus has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected
from vita_train.data.adapters.speech import adapt_splits, entry_of, lines_of
from vita_train.data.sources.registry import Dataset

_TRANSCRIPTS = "transcript/aishell_transcript_v0.8.txt"


def adapt(given: Input) -> Dataset:
    """Write the records and return the dataset. Some recordings have no transcript: they are
    rejected.

    Raises:
        DataError: the transcripts are not there, or a split has no record.
    """
    return adapt_splits(given, _rows)


def _rows(root: Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    texts = dict(line.strip().partition(" ")[::2] for line in lines_of(root / _TRANSCRIPTS))
    for split in ("train", "dev", "test"):
        for path in sorted((root / "wav" / split).glob("*/*.wav")):
            text = "".join(texts.get(path.stem, "").split())
            yield split, entry_of(path.stem, text, root, path.relative_to(root).as_posix())
