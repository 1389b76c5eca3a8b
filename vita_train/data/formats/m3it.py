"""M3IT: instruction, inputs and images in base64 become a record; its images become files.

Question is the instruction with the inputs right behind it, as VILA joins them. ``<image>`` in it
is text no more: one placeholder for each image stands at the front. Rows without images are text.
The dialogues of Visual Dialog, which stand in one question each, are turns again.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vita_train.console import say
from vita_train.data.adapters.base import Rejected
from vita_train.data.crawl.rows import ENDINGS
from vita_train.data.formats.rewrite import Made, Row, conversation, list_rows, rows_of, text_of
from vita_train.errors import DataError

MOST_IMAGES = 8
#: The subsets that VILA takes, whose train splits it joins.
SUBSETS = (
    *("image-paragraph-captioning", "textcap", "multi30k", "visual-dialog", "clevr", "nlvr"),
    *("visual-mrc", "docvqa", "gqa", "ivqa", "ocr-vqa", "st-vqa", "viquae", "vqa-v2"),
)
#: What opens a question of Visual Dialog that holds a whole dialogue.
_DIALOGUE = "Image Descriptions"
_QUESTION, _ANSWER = "\nQuestion: ", "\nAnswer: "


def rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of the files that are given; of a folder with subfolders, as the corpus comes,
    those of the train splits of VILA's 14 subsets, others named and left out.

    Raises:
        DataError: a subset has no train split there, or a file cannot be read.
    """
    for path in paths:
        if path.is_dir() and any(each.is_dir() for each in path.iterdir()):
            for file in _train_files(path):
                yield from rows_of(file, file.relative_to(path).as_posix())
        else:
            yield from list_rows([path])


def _train_files(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.name.endswith(ENDINGS) and re.search(r"\btrain|_train", path.name)
    )
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(_subset_of(path, folder), []).append(path)
    if absent := [name for name in SUBSETS if name not in found]:
        raise DataError(
            f"has no train split of {', '.join(absent)}",
            code="VT-DATA-133",
            where=str(folder),
            remedy="fetch the rest: vita-train data fetch m3it",
        )
    if others := sorted(set(found) - set(SUBSETS)):
        say(f"m3it: left out: {', '.join(others)}")
    return [path for name in SUBSETS for path in found[name]]


def _subset_of(path: Path, folder: Path) -> str:
    """Return the subset that a file is of: a folder of its path, or a part of its name."""
    parts = path.relative_to(folder).parts
    stem = path.name.partition("_train")[0].partition("_")[2]
    return next((part for part in parts if part in SUBSETS), stem if stem in SUBSETS else parts[-2])


def records(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each row of a subset."""
    for where, row in rows:
        yield _record(where, row)


def _record(where: str, row: dict[str, Any]) -> Made:
    question = "".join(
        row[key] for key in ("instruction", "inputs") if isinstance(row.get(key), str)
    )
    answer = text_of(row, "outputs")
    encoded = row.get("image_base64_str") or []
    encoded = [encoded] if isinstance(encoded, str) else encoded
    if len(encoded) > MOST_IMAGES:
        return Rejected(where, "too many images")
    try:
        images = [base64.b64decode(text, validate=True) for text in encoded]
    except (binascii.Error, TypeError, ValueError):
        return Rejected(where, "not base64")
    if not all(images):
        return Rejected(where, "empty image")
    if _DIALOGUE in question:
        pairs = _dialogue(question, answer)
        return conversation(where, pairs, images) if pairs else Rejected(where, "no dialogue")
    question = question.replace("<image>", "")
    return conversation(where, [(question, answer)], images)


def _dialogue(question: str, answer: str) -> list[tuple[str, str]]:
    """Return the turns that stand in one question, the last of them with the answer; none where it
    holds no dialogue."""
    asked = [part.split(_ANSWER) for part in question.split(_QUESTION)[1:]]
    if not asked or any(len(part) != 2 for part in asked[:-1]) or len(asked[-1]) != 1:
        return []
    return [(each[0], each[1]) for each in asked[:-1]] + [(asked[-1][0].replace("\n", ""), answer)]
