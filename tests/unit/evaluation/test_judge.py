"""Captions scored by a judge: a server that answers as we planned, and fails as we planned."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vita_train.cli.main import build_app
from vita_train.errors import DataError, UserError, VitaError
from vita_train.evaluation.judge import (
    ChatEndpoint,
    Question,
    judge_captions,
    read_captions,
    read_questions,
    read_verdict,
)

CAPTIONS = {"a": "a red ball on grass", "b": "a dog", "c": "nothing at all"}
QUESTIONS = [
    Question("a", "what colour?", "red"),
    Question("a", "where?", "on grass"),
    Question("b", "which animal?", "a cat"),
    Question("c", "how many?", "three"),
    Question("gone", "who?", "nobody"),
]
#: What the judge says of each question. Upstream would leave out the zero and the last.
VERDICTS = {
    "what colour?": '{"pred": "yes", "score": 5}',
    "where?": "{'pred': 'no', 'score': 2}",
    "which animal?": '{"pred": "no", "score": 0}',
    "how many?": "I would say yes.",
}


class Judge:
    """A server of chat completions."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.failures: list[int] = []
        self.keys: set[str | None] = set()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.keys.add(self.headers["Authorization"])
                prompt = body["messages"][0]["content"]
                status = judge.failures.pop() if judge.failures else 200
                reply = next((VERDICTS[q] for q in VERDICTS if q in prompt), "")
                if "Predicted answer" not in prompt:
                    reply = f"answered from: {prompt[:60]}"
                judge.asked[prompt] += status == 200
                text = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def judge() -> Iterator[Judge]:
    found = Judge()
    yield found
    found.server.shutdown()


def test_a26_every_question_counts_and_what_cannot_be_read_is_listed(judge: Judge) -> None:
    report = judge_captions(CAPTIONS, QUESTIONS, ChatEndpoint(judge.url, "m", "secret"), workers=3)
    # a: (1 + 0) / 2 and (5 + 2) / 2; b, c and gone: 0.
    assert (report.accuracy, report.score) == (100 * 0.5 / 4, 3.5 / 4)
    assert (report.items, report.questions) == (4, 5)
    assert report.without_caption == ["gone"]
    assert [(one.item, one.unread) for one in report.unread] == [("c", "I would say yes.")]
    assert [one.question for one in report.judged] == [one.question for one in QUESTIONS]
    assert judge.keys == {"Bearer secret"}
    assert set(judge.asked.values()) == {1}
    one = judge_captions(CAPTIONS, QUESTIONS, ChatEndpoint(judge.url, "m", "secret"), workers=1)
    assert one == report
    assert "secret" not in json.dumps(report.as_json())


def test_a26_a_judgement_that_was_cut_short_goes_on(judge: Judge, tmp_path: Path) -> None:
    ask, kept = ChatEndpoint(judge.url, "m"), tmp_path / "kept.jsonl"
    whole = judge_captions(CAPTIONS, QUESTIONS, ask, kept=kept)
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    kept.write_text("".join(lines[:2]) + lines[2][:20])
    judge.asked.clear()
    assert judge_captions(CAPTIONS, QUESTIONS, ask, kept=kept) == whole
    assert sum(judge.asked.values()) == 4  # two questions, two requests each
    judge.asked.clear()
    judge_captions({**CAPTIONS, "b": "a cat"}, QUESTIONS, ask, kept=kept)
    assert sum(judge.asked.values()) == 2  # another caption is judged anew


def test_a_busy_judge_is_asked_again_and_a_wrong_one_is_one_error(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    ask = ChatEndpoint(judge.url, "m")
    judge.failures = [503, 429]
    assert ask("hello").startswith("answered from")
    judge.failures = [500] * 9
    with pytest.raises(VitaError, match="500") as busy:
        ask("hello")
    assert not isinstance(busy.value, UserError)
    judge.failures = [404]
    with pytest.raises(UserError, match="404"):
        ask("hello")
    for url in ("localhost:1/v1", "http://user:key@host/v1", "file:///etc/passwd"):
        with pytest.raises(UserError):
            ChatEndpoint(url, "m")
    with pytest.raises(VitaError):
        ChatEndpoint("http://127.0.0.1:9/v1", "m")("hello")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"pred": "yes", "score": 4}', (True, 4)),
        ("Sure: {'pred': 'No', 'score': '3'} .", (False, 3)),
        ('{"pred": "yes", "score": 6}', None),
        ('{"pred": "maybe", "score": 1}', None),
        ('{"pred": "yes"}', None),
        ('{"pred": "yes", "score": "NaN"}', None),
        ("[1]", None),
        ("", None),
    ],
)
def test_a26_verdicts(text: str, expected: tuple[bool, float] | None) -> None:
    assert read_verdict(text) == expected


@pytest.mark.parametrize(
    "text", ["[]", '{"id": 1, "caption": "x"}', '{"id": "a"}', '{"id": "a", "caption": "x"}\n' * 2]
)
def test_files_that_are_no_captions_are_refused_with_their_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"c\.jsonl:"):
        read_captions(tmp_path / "c.jsonl")


def test_a_line_separator_within_a_caption_ends_no_line(tmp_path: Path) -> None:
    text = "a cat\u2028on a\u0085mat"
    row = json.dumps({"id": "a", "caption": text}, ensure_ascii=False)
    (tmp_path / "c.jsonl").write_text(row + "\n", encoding="utf-8")
    assert read_captions(tmp_path / "c.jsonl") == {"a": text}


def test_the_command(judge: Judge, tmp_path: Path) -> None:
    rows = [{"id": item, "caption": text} for item, text in CAPTIONS.items()]
    rows.append({"id": "gone", "error": "cannot be decoded"})
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"id": q.item, "question": q.question, "answer": q.answer} for q in QUESTIONS]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, asked)))
    assert read_questions(tmp_path / "q.jsonl") == QUESTIONS
    done = CliRunner().invoke(
        build_app(),
        [
            *("model", "judge", str(tmp_path / "c.jsonl")),
            *("--questions", str(tmp_path / "q.jsonl"), "--endpoint", judge.url),
            *("--model", "m", "--out", str(tmp_path / "out.json")),
        ],
    )
    assert done.exception is None, done.output
    assert "accuracy 12.50 %, score 0.88 over 4 items and 5 questions" in done.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["without_caption"] == ["gone"]
