"""LibriTTS: ``train-clean-100/SPEAKER/CHAPTER/NAME.wav`` with ``NAME.normalized.txt``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected
from vita_train.data.adapters.speech import adapt_parts, recording
from vita_train.data.sources.registry import Dataset


def adapt(given: Input) -> Dataset:
    """Write the records of all parts that were fetched, and return the dataset.

    Raises:
        DataError: there is no part for training.
    """
    return adapt_parts(given, _rows)


def _rows(part: Path, name: str) -> Iterator[dict[str, Any] | Rejected]:
    for path in sorted(part.glob("*/*/*.wav")):
        text = path.with_suffix(".normalized.txt")
        if not text.is_file():
            yield Rejected(f"{name}/{path.stem}", "no transcript")
            continue
        spoken = " ".join(text.read_text(encoding="utf-8").split())
        if spoken:
            yield recording(path.stem, spoken, path.relative_to(part.parent).as_posix())
        else:
            yield Rejected(f"{name}/{path.stem}", "no transcript")
