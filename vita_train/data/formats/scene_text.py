"""Text in pictures of streets and advertisements, with boxes: ART, LSVT, ReCTS and MTWI.

As VILA writes them: a box is ``[left,upper,right,lower]``, each of three digits, from 0 to 999 of
the image's sides. A turn a word asks for the text in a box or for the box of a text; MTWI's are
also asked for all texts at once. Which one is asked is drawn by the image's name alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from vita_train.data.adapters.base import Rejected
from vita_train.data.formats.rewrite import Made, Row, conversation, entries_of
from vita_train.data.media.endings import media_kind
from vita_train.errors import DataError

_WHAT = (
    "Which text stands in the box {}?",
    "What is written within {}?",
    "Read the text inside the region {}.",
    "Give the words that the box {} holds.",
)
_WHERE = (
    "Give the box of the text '{}'.",
    "Where does '{}' stand? Answer with a box.",
    "Find '{}' in the picture and give its box.",
    "Which box holds the text '{}'?",
)
_LIST = (
    "List every text in the picture, each with its box [left,upper,right,lower] from 0 to 999.",
    "Read all texts and give the box of each as [left,upper,right,lower], from 0 to 999.",
)
_ALL = ("Read all texts in the picture.", "Which texts does the picture show?")
_ILLEGIBLE = "###"
#: Numbers before a text of MTWI, which may hold commas itself.
_CORNERS = 8


@dataclass(frozen=True)
class Word:
    """A text and the corners of its place, pixels."""

    text: str
    xs: Sequence[float]
    ys: Sequence[float]

    def box(self, width: int, height: int) -> str:
        """Return its place in an image of these sides."""
        edges = (
            (min(self.xs), width), (min(self.ys), height),
            (max(self.xs), width), (max(self.ys), height),
        )  # fmt: skip
        scaled = (min(max(int(edge / side * 1000), 0), 999) for edge, side in edges)
        return f"[{','.join(f'{value:03d}' for value in scaled)}]"


def art_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of ART: ``train_labels.json`` beside ``train_images``."""
    return _labelled(paths, "train_labels.json", "train_images")


def lsvt_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of LSVT: ``train_full_labels.json`` beside ``train_full_images``."""
    return _labelled(paths, "train_full_labels.json", "train_full_images")


def rects_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of ReCTS: a file of ``gt`` for each image of ``img``."""
    for folder in paths:
        for image in image_files(folder / "img"):
            words = object_of(folder / "gt" / f"{image.stem}.json").get("chars")
            yield image.stem, {"image": f"img/{image.name}", "file": image, "words": words}


def mtwi_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of MTWI: a text file of ``txt_train`` for each image of ``image_train``, a word a line
    behind the corners of its place."""
    for folder in paths:
        for image in image_files(folder / "image_train"):
            words = []
            for line in _lines(folder / "txt_train" / f"{image.stem}.txt"):
                *corners, text = line.strip().split(",", _CORNERS)
                words.append({"points": corners, "transcription": text})
            yield image.stem, {"image": f"image_train/{image.name}", "file": image, "words": words}


def art(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each image: a turn for each legible word."""
    for where, row in rows:
        found = _words(where, row)
        if isinstance(found, Rejected):
            yield found
        else:
            yield _asked(where, row, *found)


lsvt = rects = art


def mtwi(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each image: a turn for each word, or one for all of them, with
    boxes or without."""
    for where, row in rows:
        found = _words(where, row)
        if isinstance(found, Rejected):
            yield found
            continue
        words, size = found
        rng = Random(f"mtwi/{where}")
        kind = rng.randrange(3)
        if kind == 0:
            answer = "\n".join(f"{word.box(*size)} {word.text}" for word in words)
            yield conversation(where, [(rng.choice(_LIST), answer)], [row["image"]])
        elif kind == 1:
            yield _asked(where, row, words, size)
        else:
            answer = " ".join(word.text for word in words)
            yield conversation(where, [(rng.choice(_ALL), answer)], [row["image"]])


def _asked(where: str, row: dict[str, Any], words: list[Word], size: tuple[int, int]) -> Made:
    rng = Random(f"words/{where}")
    pairs = []
    for word in words:
        box = word.box(*size)
        if rng.random() < 0.5:
            pairs.append((rng.choice(_WHAT).format(box), word.text))
        else:
            pairs.append((rng.choice(_WHERE).format(word.text), box))
    return conversation(where, pairs, [row["image"]])


def _words(where: str, row: dict[str, Any]) -> tuple[list[Word], tuple[int, int]] | Rejected:
    if not isinstance(row.get("words"), list):
        return Rejected(where, "no annotation")
    words = [word for entry in row["words"] if (word := _word(entry))]
    if not words:
        return Rejected(where, "nothing legible")
    try:
        with Image.open(row["file"]) as image:
            return words, image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return Rejected(where, "no image file")


def _word(entry: Any) -> Word | None:
    """Return a legible word with its corners, which stand in pairs or one after the other."""
    if not isinstance(entry, dict) or entry.get("illegibility") or entry.get("ignore"):
        return None
    text, points = entry.get("transcription"), entry.get("points")
    if not isinstance(text, str) or not text.strip() or _ILLEGIBLE in text:
        return None
    try:
        flat = [
            float(value)
            for point in points or ()
            for value in (point if isinstance(point, list) else [point])
        ]
    except (TypeError, ValueError):
        return None
    if len(flat) < 4 or len(flat) % 2 or not all(abs(value) < 1e9 for value in flat):
        return None
    return Word(text.strip(), flat[::2], flat[1::2])


def _labelled(paths: Sequence[Path], labels: str, images: str) -> Iterator[Row]:
    for folder in paths:
        for name, words in entries_of(folder / labels).items():
            image = f"{images}/{Path(name).name}.jpg"
            yield name, {"image": image, "file": folder / image, "words": words}


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder, by name.

    Raises:
        DataError: there is none.
    """
    found = sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if media_kind(path) == "image"
    )
    if not found:
        raise DataError(
            "holds no images",
            code="VT-DATA-136",
            where=str(folder),
            remedy="give the folder as its publisher lays it out",
        )
    return found


def object_of(path: Path) -> dict[str, Any]:
    """Return what an annotation of one image says; nothing where it is damaged or missing."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _lines(path: Path) -> list[str]:
    try:
        # Not splitlines(): a text may hold separators of Unicode, which end no line
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return []
