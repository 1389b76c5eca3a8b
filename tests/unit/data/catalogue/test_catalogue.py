"""Every entry that we ship is sound, and the user's own stand beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from vita_train.data.adapters import ADAPTERS
from vita_train.data.catalogue.entry import STAGES, Download, Entry, Form, Hub
from vita_train.data.catalogue.load import add_entry, load_catalogue, load_entry
from vita_train.errors import DataError, UserError
from vita_train.plugins import named
from vita_train.recipe.sources import CatalogueSource

CATALOGUE = load_catalogue()
NAMES = list(CATALOGUE.entries)


def test_there_is_something_for_every_stage() -> None:
    corpora = [entry for entry in CATALOGUE.entries.values() if entry.kind == "corpus"]
    for stage in STAGES:
        if stage != "evaluation":
            assert [entry.name for entry in corpora if stage in entry.stages], stage
    assert [entry for entry in CATALOGUE.entries.values() if "evaluation" in entry.stages]


def test_what_the_guides_of_vita_name_is_there() -> None:
    assert {
        *("sharegpt4v-cap100k", "sharegpt4v-pretrain", "sharegpt4v-mix665k"),
        *("llava-instruct-150k", "llava-mix665k", "llava-cc3m-595k", "cc12m", "wukong"),
        *("allava-caption-laion", "allava-caption-vflan", "scienceqa"),
        *("coco-train2017", "coco-val2017", "coco-annotations", "coco-captions"),
        *("gqa-images", "textvqa-images", "visual-genome-images", "ocr-vqa-images"),
        *("sam-sharegpt4v", "vita-audio-data", "aishell-1", "librispeech", "gigaspeech"),
        *("libritts", "audiocaps", "clotho", "audioset-subset", "video-chatgpt"),
        *("mmc4-core", "coyo-700m", "flan", "m3it", "sharegpt4v-vila"),
        *("auroracap-projection", "auroracap-vision", "auroracap-language", "video-mme"),
        *("qwen2.5-7b-instruct", "internvit-300m-448px", "siglip-so400m-384"),
        *("vita-1.5", "vita-1.5-audio-encoder"),
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_sound(name: str) -> None:
    entry = CATALOGUE.entries[name]
    for place in entry.places:
        if isinstance(place, Download | Form):
            assert place.url.startswith("https://")
        if isinstance(place, Hub):
            assert place.type == ("model" if entry.kind == "model" else "dataset")
    if entry.adapter is not None:
        assert callable(named(ADAPTERS[entry.adapter]))
    assert all(need in CATALOGUE.entries for need in entry.needs)
    assert CATALOGUE.with_needs([name])[0] == name
    assert entry.stages


def test_speech_for_the_last_stages_says_its_hours() -> None:
    spoken = [
        entry
        for entry in CATALOGUE.entries.values()
        if "3.2" in entry.stages and entry.kind == "corpus" and entry.name != "emilia"
    ]
    assert all(entry.hours for entry in spoken)
    assert sum(entry.hours or 0 for entry in spoken) > 1500


MINE = """
name: mine
title: My corpus
stages: ["1.2"]
task: caption
places:
  - {kind: http, url: "https://example.org/a.tar", unpack: mine}
"""


def test_a_catalogue_of_ones_own_stands_beside_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITA_TRAIN_CATALOGUE", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (tmp_path / "a.yaml").write_text(MINE)
    assert add_entry(tmp_path / "a.yaml") == tmp_path / "own" / "mine.yaml"
    add_entry(tmp_path / "a.yaml")  # the same again
    assert load_catalogue()["mine"].title == "My corpus"
    (tmp_path / "a.yaml").write_text(MINE.replace("My corpus", "Another"))
    with pytest.raises(UserError):
        add_entry(tmp_path / "a.yaml")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "mine.yaml").write_text(MINE.replace("My corpus", "Third"))
    assert load_catalogue([tmp_path / "more"])["mine"].title == "Third"
    assert len(load_catalogue().entries) == len(NAMES) + 1


@pytest.mark.parametrize(
    "change",
    [
        ("title:", "titel:"),
        ("https:", "ftp:"),
        ("unpack: mine", "unpack: ../mine"),
        ("unpack: mine", "unpack: /mine"),
        ('url: "https://', 'url: "https://me:secret@'),
        ("task: caption", "task: captions"),
        ('"1.2"', '"1.9"'),
        ("task: caption", "adapter: records"),
        ("name: mine", "name: Mine/../x"),
        ("kind: http", "kind: ftp"),
    ],
)
def test_a_faulty_entry_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    (tmp_path / "mine.yaml").write_text(MINE.replace(*change))
    with pytest.raises(DataError) as caught:
        load_entry(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(UserError) as caught:
        CATALOGUE["librispech"]
    assert "librispeech" in caught.value.remedy


def test_entries_say_what_they_need_once() -> None:
    entries = CATALOGUE.with_needs(["sharegpt4v-cap100k", "sharegpt4v-pretrain"])
    assert len(entries) == len(set(entries))
    assert "coco-train2017" in entries
    assert isinstance(CATALOGUE["coco-train2017"], Entry)


def test_the_entry_of_the_page_is_one(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[4] / "docs" / "how-to" / "get-public-data.md"
    *recipes, entry = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "shelf.yaml").write_text(entry)
    assert load_entry(tmp_path / "shelf.yaml").roots == {"photos": "shelf/photos"}
    for recipe in recipes:
        for source in yaml.safe_load(recipe)["data"]["source"].values():
            assert CatalogueSource.model_validate(source).name in NAMES
