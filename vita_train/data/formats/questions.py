"""Questions about pictures, charts and documents, and of mathematics: ESTVQA, KVQA, ViQuAE,
MetaMathQA, DocReason25K and UniChart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vita_train.data.adapters.base import Rejected
from vita_train.data.count.scripts import count_scripts, main_script
from vita_train.data.formats.m3it import records as viquae
from vita_train.data.formats.rewrite import Made, Row, conversation, entries_of, text_of

__all__ = ["docreason", "estvqa", "kvqa", "kvqa_rows", "metamathqa", "unichart", "viquae"]


def estvqa(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record of each image whose first question and answer are English: ESTVQA's others are
    Chinese, which their script tells. An answer without letters, such as a price, is of either."""
    for where, row in rows:
        notes = row.get("annotation")
        if not isinstance(notes, list) or not all(isinstance(note, dict) for note in notes):
            yield Rejected(where, "no annotation")
            continue
        pairs = [(text_of(note, "question"), text_of(note, "answer")) for note in notes]
        if pairs and not (_is_latin(pairs[0][0], "") and _is_latin(pairs[0][1], "Latin")):
            yield Rejected(where, "not English")
            continue
        image = row.get("image")
        if not isinstance(image, str) or not image:
            yield Rejected(where, "no image file")
        else:
            yield conversation(where, pairs, [image])


def _is_latin(text: str, without: str) -> bool:
    counts: Counter[str] = count_scripts(text)
    return (main_script(counts) if counts else without) == "Latin"


def kvqa_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of KVQA: the entries of ``dataset.json``."""
    for path in paths:
        for name, row in entries_of(path / "dataset.json" if path.is_dir() else path).items():
            yield name, row if isinstance(row, dict) else {}


def kvqa(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each image; answers that are numbers become text."""
    for where, row in rows:
        questions, answers = row.get("Questions"), row.get("Answers")
        image = text_of(row, "imgPath")
        if not isinstance(questions, list) or not isinstance(answers, list) or not image:
            yield Rejected(where, "no annotation")
        elif len(questions) != len(answers):
            yield Rejected(where, "answers do not match questions")
        else:
            pairs = zip(map(str, questions), map(str, answers), strict=True)
            yield conversation(where, pairs, [image])


def metamathqa(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each problem."""
    for where, row in rows:
        yield conversation(where, [(text_of(row, "query"), text_of(row, "response"))])


def docreason(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each page; its image stands before the first question."""
    for where, row in rows:
        messages, images = row.get("messages"), row.get("image")
        if not isinstance(messages, list) or not isinstance(images, list):
            yield Rejected(where, "no conversation")
            continue
        pairs = paired([(_field(one, "role"), _field(one, "content")) for one in messages], "user")
        if pairs is None:
            yield Rejected(where, "turns do not alternate")
            continue
        pairs = [
            (question.replace("<|image|>", ""), answer.replace("<|image|>", ""))
            for question, answer in pairs
        ]
        yield conversation(where, pairs, [str(image) for image in images[:1]])


def unichart(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each question; of a row without image bytes, as those for
    pre-training are, the image is a file of its name."""
    for where, row in rows:
        image = image_bytes(row.get("image")) or text_of(row, "imgname")
        if not image:
            yield Rejected(where, "no image file")
            continue
        question = text_of(row, "query").replace("<opencqa>", "").strip()
        yield conversation(where, [(question, text_of(row, "label"))], [image])


def image_bytes(value: Any) -> bytes:
    """Return an image as tables hold it, as bytes or beside its path; nothing where there is
    none."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else b""


def paired(turns: Sequence[tuple[str, str]], asker: str) -> list[tuple[str, str]] | None:
    """Return turns (role, text) as questions and answers; None where they do not alternate."""
    roles = [role == asker for role, _ in turns]
    if not turns or len(turns) % 2 or roles != [True, False] * (len(turns) // 2):
        return None
    return [(turns[place][1], turns[place + 1][1]) for place in range(0, len(turns), 2)]


def _field(value: Any, key: str) -> str:
    return text_of(value, key) if isinstance(value, dict) else ""
