"""The page shows whole, partial and failed runs, needs nothing but itself, and trusts no text it
shows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.helpers.errors import raises_code
from tests.helpers.fabricated_run import fabricate_run
from vita_train.errors import UserError
from vita_train.recipe.load import load_recipe
from vita_train.report.render import render_report
from vita_train.report.samples import build_sheet
from vita_train.runs.final import read_final, write_final
from vita_train.storage.factory import open_store

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>\'"&{{ 7*7 }}</style>\u202e\x00'


class Page(HTMLParser):
    """Every tag with its attributes, and the text outside of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.text += data

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def page_of(run: Path) -> tuple[str, Page]:
    text = render_report(run).read_text()
    return text, Page(text)


def test_a_finished_run_shows_every_section(tmp_path: Path) -> None:
    text, page = page_of(fabricate_run(tmp_path))
    assert {attributes.get("id") for attributes in page.of("h2")} == {
        "ladder",
        "curves",
        "kept",
        "look",
        "listen",
        "read",
        "pace",
        "data",
        "lineage",
        "recipe",
    }
    assert "All 10 stages are done" in page.text
    assert len(page.of("audio")) == 6
    assert len([a for a in page.of("img")]) == 4
    assert len(re.findall(r'<svg class="chart"', text)) == 10, "one loss chart a stage"
    assert "asr.test_sentences.wer, 1.7 points from stage 2.1a" in page.text
    assert "empty file" in page.text
    assert "bootstrap" in page.text


@pytest.mark.parametrize(
    ("preset", "columns", "base"),
    [("vila-tiny", 3, "base and tower:"), ("tiny", 8, "0.llm and 0.vision:")],
)
def test_the_ladder_shows_what_the_recipe_trains(
    preset: str, columns: int, base: str, tmp_path: Path
) -> None:
    recipe = load_recipe(preset).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    _, page = page_of(tmp_path)
    heads = [one for one in page.of("th") if one.get("class") == "module"]
    assert len(heads) == columns
    assert base in page.text


def test_datasets_of_any_name_have_headlines_by_their_task(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path)
    store = open_store(str(run))
    manifest = read_final(store, "evaluate")
    assert manifest is not None
    measured = {
        "shop.test.accuracy": 0.75,
        "hotline.test_noisy.wer": 0.125,
        "hotline.test_noisy.loss": 1.0,
        "other.test.accuracy": 0.5,
    }
    write_final(store, "evaluate", manifest.model_copy(update={"metrics": measured}))
    (run / "prepare" / "corpus" / "meta.json").write_text(
        '{"tasks": {"shop": "qa", "hotline": "asr"}}'
    )
    _, page = page_of(run)
    assert "shop: answered right" in page.text
    assert "hotline, noisy: word error" in page.text
    assert "other: answered right" not in page.text


def test_what_decided_the_length_of_a_stage_and_that_it_was_let_pass(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"]["0.llm"] |= {
        "until": {"textqa.dev.accuracy": {"min": 0.9}},
        "max_steps": 1900,
        "steps": None,
        "extend": [30],
        "gates": {"textqa.test.accuracy": {"min": 0.999}},
        "accept": True,
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    store = open_store(str(run))
    manifest = read_final(store, "0.llm")
    assert manifest is not None
    lineage = {
        "samples": {"until_met": {"stage": 640}},
        "accepted": ["textqa.test.accuracy is 0.9"],
    }
    write_final(store, "0.llm", manifest.model_copy(update={"lineage": manifest.lineage | lineage}))
    _, page = page_of(run)
    assert "stage 0.llm was accepted although textqa.test.accuracy is 0.9" in page.text
    assert "Trained until textqa.dev.accuracy: met after 640 steps." in page.text
    assert "Extended by 30 steps." in page.text
    assert "gate not met" not in page.text


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    text, page = page_of(fabricate_run(tmp_path))
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    assert not re.search(r"https?://|@import|url\(", text)
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.of("meta"))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    _, clean = page_of(fabricate_run(tmp_path / "clean"))
    for folder, kwargs in (("hostile", {}), ("hostile-failed", {"fails": "1.3"})):
        _, page = page_of(fabricate_run(tmp_path / folder, text=HOSTILE, **kwargs))
        assert "{{ 7*7 }}" in page.text, "no template within the template"
        assert '<script>alert("x")</script>' in page.text, "shown as it is, not dropped"
        assert len(page.of("script")) == 1
        assert not any("onerror" in attributes for _, attributes in page.tags)
        assert not any(attributes.get("src") == "x" for _, attributes in page.tags)
    assert len(clean.of("script")) == 1


def test_a_failed_run_says_what_failed_and_why(tmp_path: Path) -> None:
    _, page = page_of(fabricate_run(tmp_path, fails="1.3"))
    assert "Stage 1.3, vision instruction tuning, failed" in page.text
    assert page.text.count("step 266: the loss is not a number (lower the rate)") == 1
    assert "samples vqa/17 vqa/311" in page.text
    assert "4 of 10 stages are done" in page.text
    assert "not started" in page.text


def test_a_step_around_the_ladder_that_failed_is_told(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path, until="0.llm")
    progress = {
        "state": "failed",
        "reason": "caption/train: 9 of 9 rejected (look at rejects.jsonl)",
        "error": {"what": "9 of 9 rejected", "where": "caption/train", "remedy": "look at rejects"},
    }
    (run / "prepare" / "progress.json").write_text(json.dumps(progress))
    _, page = page_of(run)
    for told in ("The preparation of the data failed", "9 of 9 rejected", "What to do: look at"):
        assert told in page.text


def test_the_samples_of_an_evaluation_are_a_page_of_their_own(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path, text=HOSTILE)
    text = build_sheet(open_store(str(run)))
    page = Page(text)
    assert (len(page.of("audio")), len(page.of("img"))) == (6, 4)
    assert page.text.count("Expected: ") > Page(render_report(run).read_text()).text.count(
        "Expected: "
    ), "also where the answer was right"
    assert len(page.of("script")) == 1
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_partial_run_and_a_bare_one_render(tmp_path: Path) -> None:
    _, page = page_of(fabricate_run(tmp_path / "a", until="1.1"))
    assert "3 of 10 stages are done" in page.text
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "recipe.yaml").write_text("name: [broken")
    _, page = page_of(bare)
    assert "Some of the run could not be read" in page.text


@pytest.mark.parametrize(
    ("damaged", "content"),
    [
        *(
            (name, b'{"half": ')
            for name in (
                "1.2/final.json",
                "prepare/corpus/ledger.json",
                "evaluate/samples.json",
                "1.1/progress.json",
                "2.2/events.jsonl",
                "evaluate/media/picture-0.png",
            )
        ),
        ("2.2/events.jsonl", b'{"step": "many", "loss": 1.0}\n{"step": 2, "loss": 1.0}\n'),
        ("2.2/events.jsonl", b"[" * 100_000),
        ("1.1/progress.json", b"[" * 100_000),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:12].decode(),
)
def test_a_damaged_file_costs_its_part_only(tmp_path: Path, damaged: str, content: bytes) -> None:
    run = fabricate_run(tmp_path)
    (run / damaged).write_bytes(content)
    _, page = page_of(run)
    assert "2.1a" in page.text
    assert "Lineage" in page.text


def test_a_run_in_a_remote_store_is_read_beside_its_local_files(tmp_path: Path) -> None:
    """Manifests lie in the store, data and logs on this machine."""
    remote = fabricate_run(tmp_path / "remote")
    local = tmp_path / "local" / "tiny-demo"
    (local / "prepare").mkdir(parents=True)
    (remote / "prepare" / "corpus").rename(local / "prepare" / "corpus")
    page = Page(render_report(local, store=open_store(str(remote))).read_text())
    assert "All 10 stages are done" in page.text
    assert "empty file" in page.text
    assert (local / "report" / "report.html").exists()


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with raises_code(UserError, "VT-USE-094"):
        render_report(tmp_path)
    assert not (tmp_path / "report").exists()
