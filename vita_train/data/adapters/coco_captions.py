"""COCO Captions: a caption of a person becomes a record; of 2017, train becomes train and val
dev."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Input, Rejected, missing, write_rows
from vita_train.data.sources.registry import Dataset, SplitSource
from vita_train.errors import DataError

QUESTION = "<image>\nDescribe the image in one sentence."
_SPLITS = {"train": "captions_train2017.json", "dev": "captions_val2017.json"}


def adapt(given: Input) -> Dataset:
    """Write the records of both splits and return the dataset.

    Raises:
        DataError: an annotation file is missing or of another layout.
    """
    (folder,) = given.entry.records_from
    splits = {}
    for split, name in _SPLITS.items():
        path = given.data / folder / name
        if not path.is_file():
            raise missing(path)
        records = given.out / f"{split}.jsonl"
        write_rows(records, _rows(path, split))
        splits[split] = SplitSource(records=records.name, roots={split: given.root(split)})
    return Dataset(task="caption", splits=splits)


def _rows(path: Path, split: str) -> Iterator[dict[str, Any] | Rejected]:
    try:
        content = json.loads(path.read_bytes())
        images = {image["id"]: str(image["file_name"]) for image in content["images"]}
        captions = list(content["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"is no file of COCO captions: {type(error).__name__}",
            code="VT-DATA-066",
            where=str(path),
            remedy="fetch coco-annotations again",
        ) from error
    for row, caption in enumerate(captions):
        where = f"{path.name}:{row}"
        text = caption.get("caption") if isinstance(caption, dict) else None
        if not isinstance(text, str) or not text.strip():
            yield Rejected(where, "no caption")
        elif caption.get("image_id") not in images:
            yield Rejected(where, "unknown image")
        else:
            yield {
                "id": caption.get("id", row),
                "set": split,
                "image": images[caption["image_id"]],
                "conversations": [
                    {"from": "human", "value": QUESTION},
                    {"from": "gpt", "value": " ".join(text.split())},
                ],
            }
