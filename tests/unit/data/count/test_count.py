"""Counts of records, registries and corpora against numbers that were worked out by hand."""

from __future__ import annotations

import json
import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.helpers.data_world import audio_file, image_file, recipe, turns
from vita_train.cli.main import build_app
from vita_train.data.check.targets import open_target
from vita_train.data.count.gather import count_corpus, count_source
from vita_train.data.count.scripts import count_scripts, main_script
from vita_train.data.count.shares import stage_shares
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.tokenizer import train_tokenizer


def run(*words: str | Path) -> Any:
    result = CliRunner().invoke(build_app(), ["data", "count", *map(str, words)])
    assert result.exception is None, result.exception
    return result.stdout


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("what is on the sofa?", "Latin"),
        ("沙发上有什么?", "Han"),
        ("что на диване", "Cyrillic"),
        ("ソファのうえ", "Hiragana"),
        ("ＳＯＦＡ", "Latin"),
        ("소파 위에", "Hangul"),
        ("ما على الأريكة", "Arabic"),
        ("12 + 3 = ?", "none"),
        ("", "none"),
        ("我 likes a cat", "Latin"),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert main_script(count_scripts(text)) == script
    assert count_scripts(text).total() == sum(letter.isalpha() for letter in text)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    image_file(tmp_path / "a.jpg")
    audio_file(tmp_path / "s.wav", 1.0)
    rows: list[Any] = [
        {
            "id": 0,
            "image": "a.jpg",
            "set": "x<b>",
            "conversations": turns("<image>是什么", "一只猫"),
        },
        {"id": 1, "audio": "s.wav", "inserted_id": 1, "conversations": turns("<audio>", "yes")},
        {"id": 2, "conversations": turns(*(["a", "b"] * 4))},
        {"id": 3, "conversations": turns("a")},
        7,
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_record_file(files: Path) -> None:
    counted = json.loads(run(files / "r.json", "--root", files, "--json"))["splits"]
    assert len(counted) == 1
    facts = counted[0]
    expected = {
        "dataset": "r", "split": "train", "state": "records", "measured": False, "records": 3,
        "rejected": 2, "turns": 12, "images": 1, "videos": 0, "audios": 1, "negatives": 1,
        "modalities": {"audio": 1, "image": 1, "text": 1}, "scripts": {"Han": 1, "Latin": 2},
        "sets": {"x<b>": 1}, "tokens": 0,
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert sum(facts["reasons"].values()) == 2
    assert facts["by_turns"]["0"] == 2
    assert facts["by_turns"]["5"] == 1


def test_lengths_and_a_page_that_escapes(files: Path) -> None:
    train_tokenizer(["the red circle"] * 20, 420, files / "tokenizer")
    words = [
        "--root", files, "--recipe", "tiny", "--set", f"tokenizer.source={files / 'tokenizer'}",
        "--set", "model.llm.max_positions=4096",
    ]  # fmt: skip
    facts = json.loads(run(files / "r.json", *words, "--json"))["splits"][0]
    assert facts["seconds"] == pytest.approx(1.0)
    assert facts["by_seconds"]["1"] == 1
    assert sum(facts["by_tokens"].values()) == 3
    assert facts["tokens"] > facts["supervised"] > 0
    assert facts["tiles"] == 1
    text = run(files / "r.json", *words, "--html", files / "c.html")
    assert "not counted" in text  # the datasets of the recipe are others
    page = (files / "c.html").read_text()
    assert "x&lt;b&gt;" in page
    assert "x<b>" not in page
    assert re.search(r"default-src 'none'; style-src", page)
    tags: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.add(tag)

    Tags().feed(page)
    assert {"svg", "rect"} <= tags
    assert not tags & {"script", "link", "img", "b"}


def test_before_and_after_preparation_agree(registry: Path, corpus: Corpus) -> None:
    before = {each.name: each for each in map(count_source, open_target(registry))}
    after = {each.name: each for each in count_corpus(corpus)}
    assert set(after) == set(before)
    for name, counts in after.items():
        for field in ("records", "turns", "images", "videos", "audios", "modalities", "scripts"):
            assert getattr(counts, field) == getattr(before[name], field), (name, field)
        index = corpus.index(counts.dataset, counts.split)
        assert counts.tokens == index.tokens.sum()
        assert counts.seconds == pytest.approx(sum(index.column("seconds")))
        assert sum(counts.by_tokens.counts) == counts.records == len(index)


def test_shares_are_those_of_an_epoch(corpus: Corpus) -> None:
    shares = {each.stage: each for each in stage_shares(recipe(), count_corpus(corpus))}
    look, talk = (int(corpus.index(name, "train").tokens.sum()) for name in ("look", "talk"))
    found = {each.dataset: each for each in shares["1.3"].datasets}
    assert found["look"].share_of_tokens == pytest.approx(look / (look + talk / 2))
    assert found["talk"].records == len(corpus.index("talk", "train")) / 2
    assert sum(each.share_of_tokens for each in shares["1.3"].datasets) == pytest.approx(1)
    assert [each.dataset for each in shares["2.1a"].datasets] == ["hear"]
    assert not shares["1.3"].missing


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    def peak(number: int) -> int:
        path = tmp_path / f"{number}.jsonl"
        with path.open("w") as stream:
            for each in range(number):
                row = {"id": each, "conversations": turns(f"say {each}", "a" * 50)}
                stream.write(json.dumps(row) + "\n")
        (source,) = open_target(path)
        tracemalloc.start()
        assert count_source(source).records == number
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(50)  # what is imported and cached once
    assert peak(4000) < peak(200) + 300_000
