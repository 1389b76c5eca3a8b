"""LibriSpeech: ``train-clean-100/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside the FLAC files.

Transcripts are upper case without punctuation; they become lower case. Speakers of train, dev and
test differ, as the corpus has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected
from vita_train.data.adapters.speech import adapt_parts, lines_of, recording
from vita_train.data.sources.registry import Dataset


def adapt(given: Input) -> Dataset:
    """Write the records of all parts that were fetched, and return the dataset.

    Raises:
        DataError: there is no part for training.
    """
    return adapt_parts(given, _rows)


def _rows(part: Path, name: str) -> Iterator[dict[str, Any] | Rejected]:
    for path in sorted(part.glob("*/*/*.trans.txt")):
        folder = path.parent.relative_to(part.parent).as_posix()
        for line in lines_of(path):
            utterance, _, text = line.strip().partition(" ")
            if not text.strip():
                yield Rejected(f"{name}/{utterance}", "no transcript")
            elif not (path.parent / f"{utterance}.flac").is_file():
                yield Rejected(f"{name}/{utterance}", "no recording")
            else:
                yield recording(utterance, text.lower(), f"{folder}/{utterance}.flac")
