"""Hi-Fi TTS: ``READER_manifest_QUALITY_SPLIT.json``, JSON Lines with ``audio_filepath`` and
``text_normalized``.

Readers are in all splits, as the corpus has it.
"""

from __future__ import annotations

import json
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
    for path in sorted(root.glob("*_manifest_*_*.json")):
        split = path.stem.rpartition("_")[2]
        if split not in ("train", "dev", "test"):
            continue
        for number, line in enumerate(lines_of(path), 1):
            try:
                row = json.loads(line)
                audio, text = row["audio_filepath"], row.get("text_normalized") or row["text"]
                name = "/".join(Path(audio).with_suffix("").parts[1:])
                yield split, entry_of(name, " ".join(text.split()), root, audio)
            except (ValueError, KeyError, TypeError, AttributeError):
                yield split, Rejected(f"{path.name}:{number}", "not a row of its manifest")
