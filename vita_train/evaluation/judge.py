"""Detailed captions scored by a language model that answers and judges (VDC, of AuroraCap).

For each question about an item the judge answers from the predicted caption alone, then compares
its answer with the right one: yes or no, and 0 to 5. The score is the mean over an item's
questions, then over items. Upstream leaves items out whose score is zero or whose verdict cannot be
read, which raises the mean; here every question counts, those that could not be judged as wrong,
and they are listed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from statistics import fmean
from typing import Any

import urllib3
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from vita_train.errors import DataError, UserError, VitaError

#: Fixed, so that a score means the same whenever it is taken.
ANSWER = (
    "Here is a detailed description of a video or an image:\n{caption}\n\nAnswer the question from "
    "the description alone, in one short sentence. If the description does not tell, say so.\n"
    "Question: {question}"
)
VERDICT = (
    "Question: {question}\nCorrect answer: {answer}\nPredicted answer: {predicted}\n\nDoes the "
    "predicted answer mean the same as the correct one? Reply with one JSON object and nothing "
    'else: {{"pred": "yes" or "no", "score": a whole number from 0 (wrong) to 5 (same)}}.'
)
_MOST_SCORE = 5
_LONGEST_ANSWER = 256
_TRIES, _SERVERS_FAULT = 4, HTTPStatus.INTERNAL_SERVER_ERROR

Ask = Callable[[str], str]
"""A prompt to the judge's reply."""


@dataclass(frozen=True)
class Question:
    """One question about an item."""

    item: str
    question: str
    answer: str


@dataclass(frozen=True)
class Judged:
    """What the judge made of one question."""

    item: str
    question: str
    answer: str
    predicted: str
    right: bool = False
    score: float = 0.0
    unread: str = ""
    """The verdict, where it could not be read; such a question counts as wrong."""


@dataclass(frozen=True)
class JudgeReport:
    """The scores of a set of captions."""

    accuracy: float
    """Share of right answers, percent: mean over items of their means."""
    score: float
    """Mean of 0 to 5, likewise."""
    items: int
    questions: int
    without_caption: list[str] = field(default_factory=list)
    """Items with questions and no caption; they count as wrong."""
    unread: list[Judged] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class _BusyError(Exception):
    """The server may answer later."""


class ChatEndpoint:
    """A server that speaks OpenAI's chat completions: SGLang, vLLM, llama.cpp and others.

    Args:
        url: its base, such as ``http://localhost:30000/v1``.
        model: name of the model there.
        key: sent as a bearer token unless empty.
    """

    def __init__(self, url: str, model: str, key: str = "") -> None:
        if not re.fullmatch(r"https?://[^/@\s]+(/[^@\s]*)?", url):
            raise UserError(
                "is no URL of a server",
                code="VT-USE-284",
                where="--endpoint",
                remedy="give one such as http://localhost:30000/v1, without credentials",
            )
        self._url, self._model = f"{url.rstrip('/')}/chat/completions", model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._pool = urllib3.PoolManager(retries=False, timeout=120)

    def __call__(self, prompt: str) -> str:
        """Return the reply to a prompt, the most likely one.

        Raises:
            VitaError: the server cannot be reached or is busy, after several tries.
            UserError: it refuses the request, or does not answer as such a server does.
        """
        try:
            answer = self._send(prompt)
        except (_BusyError, urllib3.exceptions.HTTPError) as error:
            raise VitaError(
                f"the judge cannot be reached: {error or type(error).__name__}",
                code="VT-FAIL-022",
                where=self._url,
                remedy="see whether it runs, then give the same command again: what is judged is "
                "kept",
            ) from error
        try:
            if answer.status != HTTPStatus.OK:
                raise ValueError
            return str(answer.json()["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"answered {answer.status}, not as a server of chat completions",
                code="VT-USE-285",
                where=self._url,
                remedy="look at its address, the model's name and the key",
            ) from error

    @retry(
        retry=retry_if_exception_type((_BusyError, urllib3.exceptions.HTTPError)),
        wait=wait_exponential_jitter(initial=0.5, max=8),
        stop=stop_after_attempt(_TRIES),
        reraise=True,
    )
    def _send(self, prompt: str) -> urllib3.BaseHTTPResponse:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "seed": 0,
            "max_tokens": _LONGEST_ANSWER,
        }
        answer = self._pool.request("POST", self._url, json=body, headers=self._headers)
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS or answer.status >= _SERVERS_FAULT:
            raise _BusyError(f"it answered {answer.status}")
        return answer


def judge(question: Question, caption: str, ask: Ask) -> Judged:
    """Return what a judge makes of one question; two requests."""
    predicted = ask(ANSWER.format(caption=caption, question=question.question)).strip()
    verdict = ask(
        VERDICT.format(question=question.question, answer=question.answer, predicted=predicted)
    )
    found = read_verdict(verdict)
    told = (question.item, question.question, question.answer, predicted)
    return Judged(*told, unread=verdict) if found is None else Judged(*told, *found)


def read_verdict(text: str) -> tuple[bool, float] | None:
    """Return what a verdict says, or none where it is not one JSON object of the form asked for."""
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1].replace("'", '"'))
        word, score = str(value["pred"]).strip().lower(), float(value["score"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if word not in ("yes", "no") or not 0 <= score <= _MOST_SCORE:
        return None
    return word == "yes", score


def judge_captions(
    captions: Mapping[str, str],
    questions: Sequence[Question],
    ask: Ask,
    *,
    workers: int = 8,
    kept: Path | None = None,
) -> JudgeReport:
    """Judge captions by questions about them.

    Args:
        captions: item to caption.
        questions: of all items; their order is the report's.
        ask: of the judge.
        workers: requests at a time; they change no result.
        kept: file of what is judged already, appended to; a judgement that was cut short goes on.

    Raises:
        UserError: there is no question.
        VitaError: the judge cannot be reached. What was judged before is kept.
    """
    if not questions:
        raise UserError(
            "there is no question",
            code="VT-USE-286",
            where="--questions",
            remedy="give a file with an object of id, question and answer a line",
        )
    done = _read_kept(kept, captions) if kept else {}

    def one(question: Question) -> Judged:
        told = (question.item, question.question, question.answer)
        if question.item not in captions:
            return Judged(*told, "")
        return done.get(told) or judge(question, captions[question.item], ask)

    judged: list[Judged] = []
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(one, questions):
            judged.append(found)
            if kept and found.item in captions and _key(found) not in done:
                with kept.open("a", encoding="utf-8") as file:
                    line = {**asdict(found), "caption": captions[found.item]}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return summary(judged, captions)


def summary(judged: Sequence[Judged], captions: Mapping[str, str]) -> JudgeReport:
    """Return the scores of judged questions: means over an item's questions, then over items."""
    items: dict[str, list[Judged]] = {}
    for found in judged:
        items.setdefault(found.item, []).append(found)
    return JudgeReport(
        accuracy=100 * fmean(fmean(one.right for one in of) for of in items.values()),
        score=fmean(fmean(one.score for one in of) for of in items.values()),
        items=len(items),
        questions=len(judged),
        without_caption=[item for item in items if item not in captions],
        unread=[found for found in judged if found.unread],
        judged=list(judged),
    )


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a file of JSON Lines: ``id``, ``question``, ``answer``.

    Raises:
        DataError: a line is none.
    """
    return [
        Question(
            _text(row, "id", where), _text(row, "question", where), _text(row, "answer", where)
        )
        for where, row in _objects(path)
    ]


def read_captions(path: Path) -> dict[str, str]:
    """Return the captions of a file of JSON Lines by item: ``id`` and ``caption``. Lines with an
    ``error`` in place of a caption are none.

    Raises:
        DataError: a line is none, or an item stands there twice.
    """
    captions: dict[str, str] = {}
    for where, row in _objects(path):
        if row.get("error"):
            continue
        item = _text(row, "id", where)
        if item in captions:
            raise DataError(
                f"{item!r} has a caption already",
                code="VT-DATA-122",
                where=where,
                remedy="give one caption an item",
            )
        captions[item] = _text(row, "caption", where)
    return captions


def _read_kept(path: Path, captions: Mapping[str, str]) -> dict[tuple[str, str, str], Judged]:
    """Return what a file holds of the same captions; a last line that was cut short is none."""
    if not path.is_file():
        return {}
    found: dict[tuple[str, str, str], Judged] = {}
    whole = path.read_bytes().rpartition(b"\n")[0]
    if whole:
        whole += b"\n"
    path.write_bytes(whole)
    for where, row in _objects(path):
        caption = row.pop("caption", None)
        try:
            one = Judged(**row)
        except TypeError as error:
            raise DataError(
                "is no line of a judgement",
                code="VT-DATA-123",
                where=where,
                remedy="give another file to --out",
            ) from error
        if captions.get(one.item) == caption:
            found[_key(one)] = one
    return found


def _key(found: Judged) -> tuple[str, str, str]:
    return found.item, found.question, found.answer


def _objects(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        # Not splitlines(): a text may hold line separators of Unicode, which end no line of JSON.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", code="VT-DATA-124", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(
                "is no JSON object",
                code="VT-DATA-125",
                where=f"{path}:{number}",
                remedy="give one object a line",
            )
        yield f"{path}:{number}", row


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(
            f"{key} is no text",
            code="VT-DATA-126",
            where=where,
            remedy=f"every line has {key} as a text",
        )
    return value
