"""Fields of receipts and of food labels: SROIE and POIE."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vita_train.data.adapters.base import Rejected
from vita_train.data.formats.rewrite import Made, Row, conversation
from vita_train.data.formats.scene_text import image_files, object_of

_SHORT = "Answer with the words of the picture."
#: SROIE's fields.
_FIELDS = {
    "company": "Which company issued this receipt?",
    "address": "At which address was this receipt issued?",
    "date": "On which date was this receipt issued?",
    "total": "What is the total of this receipt?",
}
#: POIE's keys: what is stated, and for how much.
_STATED = {
    "CE": "calories or energy",
    "TF": "total fat",
    "SO": "sodium",
    "CAR": "total carbohydrate",
    "PRO": "protein",
}
_PER = {
    "PS": "per serving",
    "P1": "per 100 g or ml",
    "D": "as percentage of the daily value",
    "PP": "per package",
}


def sroie_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of SROIE: a JSON object in a text file beside each image."""
    for folder in paths:
        for image in image_files(folder):
            yield image.stem, {"image": image.name, **object_of(image.with_suffix(".txt"))}


def sroie(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each receipt: a turn a field."""
    for where, row in rows:
        pairs = [
            (f"{question} {_SHORT}", row[field])
            for field, question in _FIELDS.items()
            if isinstance(row.get(field), str)
        ]
        yield conversation(where, pairs, [row["image"]])


def poie(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each label: a turn for each value that it states."""
    for where, row in rows:
        name, stated = row.get("file_name"), row.get("entity_dict")
        if not isinstance(name, str) or not isinstance(stated, dict):
            yield Rejected(where, "no annotation")
            continue
        pairs = []
        for key, value in stated.items():
            if isinstance(value, str) and (question := _question(key)):
                pairs.append((question, value))
        made = conversation(PurePosixPath(name).stem, pairs, [name])
        yield Rejected(where, made.reason) if isinstance(made, Rejected) else made


def _question(key: Any) -> str:
    if key == "SS":
        return f"What is the serving size? {_SHORT}"
    what, _, per = str(key).partition("-")
    if what not in _STATED or per not in _PER:
        return ""
    return f"How much {_STATED[what]} is stated {_PER[per]}? {_SHORT}"
