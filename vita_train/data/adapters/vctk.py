"""VCTK 0.92: ``wav48_silence_trimmed/SPEAKER/UTTERANCE_mic1.flac`` and
``txt/SPEAKER/UTTERANCE.txt``.

The first microphone is taken. The corpus has no splits: they are made by speaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected
from vita_train.data.adapters.speech import adapt_splits, by_speaker, entry_of
from vita_train.data.sources.registry import Dataset

_SOUNDS, _MICROPHONE = "wav48_silence_trimmed", "_mic1.flac"


def adapt(given: Input) -> Dataset:
    """Write the records and return the dataset.

    Raises:
        DataError: a split has no record.
    """
    return adapt_splits(given, _rows)


def _rows(root: Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    paths = sorted((root / _SOUNDS).glob(f"*/*{_MICROPHONE}"))
    splits = by_speaker(path.parent.name for path in paths)
    for path in paths:
        name = path.name.removesuffix(_MICROPHONE)
        text = root / "txt" / path.parent.name / f"{name}.txt"
        spoken = " ".join(text.read_text(encoding="utf-8").split()) if text.is_file() else ""
        audio = path.relative_to(root).as_posix()
        yield splits[path.parent.name], entry_of(name, spoken, root, audio)
