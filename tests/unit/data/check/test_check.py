"""Checks of one file and of registries: everything is counted once, and the page shows it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.data_world import (
    audio_file,
    image_file,
    recipe,
    small_world,
    turns,
    video_file,
)
from vita_train.cli.main import build_app
from vita_train.data.check.run import CheckSettings, check_sources
from vita_train.data.check.targets import open_target
from vita_train.data.check.text import repeats, text_findings
from vita_train.data.media.details import dhash
from vita_train.errors import DataError, UserError


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["data", "check", *map(str, words)])
    told = f"{result.exception}" if isinstance(result.exception, UserError) else ""
    assert result.exception is None or told or isinstance(result.exception, SystemExit), result
    return (2 if told else result.exit_code), result.output + told


def smooth(path: Path, seed: int, side: int = 64) -> Path:
    """An image of broad strokes, as photographs have them."""
    cells = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=92)
    return path


def look(number: int, name: str, answer: str = "a cat") -> dict[str, Any]:
    return {"id": number, "image": name, "conversations": turns("<image>\nwhat?", answer)}


def records(at: Path) -> Path:
    """A file with everything: good, bad, repeated."""
    images = at / "images"
    for seed in range(3):
        smooth(images / f"p{seed}.jpg", seed)
    (images / "same.jpg").write_bytes((images / "p0.jpg").read_bytes())
    smooth(images / "large.jpg", 1, side=300)
    (images / "broken.jpg").write_bytes(b"no image")
    audio_file(images / "a.wav", rate=44100)
    video_file(images / "v.mp4")
    rows: list[Any] = [
        look(0, "p0.jpg"),
        look(1, "p1.jpg"),
        look(2, "p2.jpg", "<|im_end|> \ufffd"),
        look(3, "same.jpg", "other"),
        look(4, "large.jpg"),
        look(5, "broken.jpg"),
        look(6, "missing.jpg"),
        {"id": 7, "audio": "a.wav", "conversations": turns("<audio>", "it hums")},
        {"id": 8, "video": "v.mp4", "conversations": turns("<video>", "it is grey")},
        {"id": 8, "conversations": turns("say <b>&amp;</b>", "<script>alert(1)</script>")},
        {"id": 10, "conversations": turns("say <b>&amp;</b>", "<script>alert(1)</script>")},
        {"id": 11, "conversations": turns("go", "round and round " * 60)},
        {"id": 12},
        13,
    ]
    (at / "records.json").write_text(json.dumps(rows))
    return at / "records.json"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.media: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.media += [value or "" for name, value in attrs if name == "src"]


def test_one_file_is_checked_and_shown(tmp_path: Path) -> None:
    path = records(tmp_path)
    out = {name: tmp_path / name for name in ("page.html", "out.json", "rejects.jsonl")}
    code, told = run(
        path, "--root", tmp_path / "images", "--html", out["page.html"], "--json", out["out.json"],
        "--rejects", out["rejects.jsonl"], "--workers", "2",
    )  # fmt: skip
    assert code == 2
    assert "VT-DATA-001" in told
    counts = json.loads(out["out.json"].read_text())
    assert (counts["records"], counts["used"], counts["rejected"]) == (14, 10, 4)
    assert counts["reasons"] == {
        "missing file": 1, "missing key": 1, "not an object": 1, "unreadable image": 1
    }  # fmt: skip
    assert counts["findings"] == {
        "control token": 1, "replacement character": 1, "repetition": 1, "duplicate id": 1,
        "duplicate record": 1, "duplicate media": 1, "near-duplicate image": 1,
    }  # fmt: skip
    assert counts["media"]["audio"]["rates"] == {"44100 Hz, 1 ch": 1}
    assert counts["media"]["audio"]["seconds"] == pytest.approx(0.5, abs=0.01)
    assert counts["media"]["image"]["files"] == 5
    assert counts["media"]["video"]["seconds"] == pytest.approx(2.0, abs=0.1)
    rejects = [json.loads(line) for line in out["rejects.jsonl"].read_text().splitlines()]
    assert [each["row"] for each in rejects] == [5, 6, 12, 13]
    page = Page(out["page.html"].read_text())
    assert "script" not in page.tags
    kinds = {re.match(r"data:(\w+/\w+);base64,", source).group(1) for source in page.media}
    assert kinds == {"image/jpeg", "audio/wav"}
    assert page.tags.count("audio") == sum("audio/wav" in source for source in page.media) > 0
    assert run(path, "--root", tmp_path / "images", "--max-rejects", "4")[0] == 0
    assert run(path, "--root", tmp_path / "images", "--max-rejects", "3")[0] == 2
    assert run(path, "--root", tmp_path / "images", "--max-rejects", "0.3")[0] == 0
    assert run(
        path, "--root", tmp_path / "images", "--max-rejects", "4", "--fail-on", "repetition"
    )[0] == 2  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
def test_the_report_does_not_depend_on_workers(tmp_path: Path, workers: int) -> None:
    path = records(tmp_path)
    sources = open_target(path, roots=[str(tmp_path / "images")])
    report = check_sources(sources, CheckSettings(), workers=workers, progress=lambda _: None)
    assert [reject.row for _, _, reject in report.rejects] == [5, 6, 12, 13]
    assert [shown.row.row for shown in report.samples] == [
        shown.row.row
        for shown in check_sources(
            sources, CheckSettings(), workers=1, progress=lambda _: None
        ).samples
    ]


@pytest.mark.parametrize("how", ["missing", "empty", "file"])
def test_a_root_without_media_is_one_message(tmp_path: Path, how: str) -> None:
    path = records(tmp_path)
    root = tmp_path / "elsewhere"
    if how == "empty":
        root.mkdir()
    elif how == "file":
        root.write_text("x")
    code, told = run(path, "--root", root, "--workers", "1")
    assert code == 2
    assert str(root) in told
    assert "missing file" not in told


def test_leaks_between_splits(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 6)
    value = json.loads((tmp_path / "look-dev.json").read_text())
    value[0]["conversations"][1]["value"] = "another answer"
    (tmp_path / "look-dev.json").write_text(json.dumps(value))
    code, told = run(registry, "--workers", "1")
    assert code == 0
    assert "leak: record 4" in told  # two of look, two of hear
    assert "leak: media 5" in told
    assert run(registry, "--workers", "1", "--fail-on", "leak: media")[0] == 2


def test_with_a_recipe_lengths_are_measured_too(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    rows = json.loads((tmp_path / "talk-train.json").read_text())
    rows[0]["conversations"][0]["value"] = "red " * 400
    (tmp_path / "talk-train.json").write_text(json.dumps(rows))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe().model_dump(mode="json")))
    page = tmp_path / "page.html"
    code, told = run(tmp_path / "recipe.yaml", registry, "--workers", "2", "--html", page)
    assert code == 2
    assert "rejected: too long 1" in told
    assert "too long" in page.read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("--root", "=x"),
        ("--root", "a="),
        ("--adapter", "none"),
        ("--lenient", "none"),
        ("--fail-on", "none"),
        ("--rejects", "/nowhere/at/all.jsonl"),
    ],
)
def test_options_that_are_none(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{"conversations": turns("a", "b")}]))
    assert run(path, "--workers", "1", *words)[0] == 2
    assert run(path, "--workers", "1")[0] == 0


def test_a_registry_has_its_own_roots(tmp_path: Path) -> None:
    assert run(small_world(tmp_path, 2), "--root", tmp_path)[0] == 2


def test_a_file_that_cannot_be_written_leaves_no_half(tmp_path: Path) -> None:
    path = records(tmp_path)
    with pytest.raises(DataError):
        check_sources(
            open_target(tmp_path / "nothing.json"), CheckSettings(), progress=lambda _: None
        )
    run(path, "--root", tmp_path / "images", "--rejects", tmp_path / "r.jsonl")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("<|im_start|>user", "control token"),
        ("</s>", "control token"),
        ("[INST] a", "control token"),
        ("caf\u00c3\u00a9", "mojibake"),
        ("\u951f\u65a4\u62f7", "mojibake"),
        ("a\ufffdb", "replacement character"),
        ("a\x07b", "control character"),
        ("?!", "answer without words"),
        ("the same line\n" * 40, "repetition"),
    ],
)
def test_text_that_went_wrong(answer: str, name: str) -> None:
    assert name in text_findings(["q", answer])


@pytest.mark.parametrize(
    "answer",
    [
        "caf\u00e9 na\u00efve \u2013 \u201cyes\u201d",
        "\u4eca\u5929\u5929\u6c14\u5f88\u597d",
        "if a < b then c > d",
        "a list:\n- one\n- two\n- three\n- four\n- five\n- six",
        " ".join(f"The {n}th of {n * 7 % 13} towns has {n * n} wells." for n in range(60)),
    ],
)
def test_text_that_is_right(answer: str) -> None:
    assert not text_findings(["q", answer])
    assert not repeats(answer)


def test_the_difference_hash_knows_an_image_again(tmp_path: Path) -> None:
    one = Image.open(smooth(tmp_path / "a.png", 1))
    again = Image.open(smooth(tmp_path / "b.jpg", 1, side=200))
    other = Image.open(smooth(tmp_path / "c.png", 2))
    assert (dhash(one) ^ dhash(again)).bit_count() <= 3
    assert (dhash(one) ^ dhash(other)).bit_count() > 10


def test_noise_is_no_duplicate(tmp_path: Path) -> None:
    for seed in range(30):
        image_file(tmp_path / "i" / f"{seed}.jpg", 64, 64, seed=seed)
    (tmp_path / "r.json").write_text(json.dumps([look(n, f"{n}.jpg", f"a{n}") for n in range(30)]))
    code, told = run(tmp_path / "r.json", "--root", tmp_path / "i")
    assert code == 0
    assert "found:" not in told
