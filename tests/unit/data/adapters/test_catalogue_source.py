"""A recipe's source of kind ``catalogue``: what was fetched becomes records, or the command that
fetches it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vita_train.data.catalogue.load import Catalogue, load_catalogue
from vita_train.data.fetch.run import fetch as fetch_entries
from vita_train.data.sources.fetch import fetch
from vita_train.data.sources.reading import Row, read_records
from vita_train.errors import DataError, UserError
from vita_train.recipe.load import load_recipe
from vita_train.recipe.sources import CatalogueSource

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A mug."}]


def brought(
    name: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetch an entry of the catalogue from local files in place of its own places."""
    real = load_catalogue()
    for path, text in files.items():
        (tmp_path / "far" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "far" / path).write_text(text)
    own = tmp_path / "own"
    own.mkdir(exist_ok=True)
    place = [{"kind": "file", "path": str(tmp_path / "far")}]
    plain = real[name].model_dump(mode="json", exclude_defaults=True)
    entry = {**plain, "places": place, "mirrors": {}, "needs": []}
    (own / f"{name}.yaml").write_text(json.dumps(entry))
    monkeypatch.setenv("VITA_TRAIN_CATALOGUE", str(own))
    monkeypatch.setenv("VITA_TRAIN_DATA", str(tmp_path / "data"))
    changed = load_catalogue()[name]
    fetch_entries(
        [changed], tmp_path / "data", catalogue=Catalogue({name: changed}, {}), accept_licence=True
    )


def rows(out: Path, name: str, split: str) -> list[Row]:
    registry = json.loads((out / "registry.json").read_text())
    source = registry["datasets"][name][split]
    roots = {key: Path(root) for key, root in source["roots"].items()}
    found = list(read_records(out / source["records"], roots))
    assert all(isinstance(row, Row) for row in found)
    return [row for row in found if isinstance(row, Row)]


def test_records_of_llava_are_used_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"id": "1", "image": "coco/train2017/1.jpg", "conversations": TURNS}
    files = {"llava/llava_v1_5_mix665k.json": json.dumps([record])}
    brought("llava-mix665k", files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name="llava-mix665k"), tmp_path / "out", seed=0)
    (row,) = rows(tmp_path / "out", "llava-mix665k", "train")
    roots = {"images": tmp_path / "data"}
    assert row.images[0].path(roots) == tmp_path / "data" / "coco/train2017/1.jpg"


def test_captions_of_coco_become_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def captions(*texts: str | None) -> str:
        images = [{"id": 7, "file_name": "000000000007.jpg"}]
        listed = [
            {"id": number, "image_id": 7, "caption": text} for number, text in enumerate(texts)
        ]
        return json.dumps(
            {"images": images, "annotations": [*listed, {"image_id": 8, "caption": "x"}]}
        )

    files = {
        "coco/annotations/captions_train2017.json": captions("A mug.", None, " A \n cup. "),
        "coco/annotations/captions_val2017.json": captions("A dog."),
    }
    brought("coco-captions", files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name="coco-captions"), tmp_path / "out", seed=0)
    train = rows(tmp_path / "out", "coco-captions", "train")
    assert [row.record.conversations[1].value for row in train] == ["A mug.", "A cup."]
    assert str(train[0].images[0]) == "train:000000000007.jpg"
    assert len(rows(tmp_path / "out", "coco-captions", "dev")) == 1
    rejects = (tmp_path / "out" / "train.rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in rejects] == ["no caption", "unknown image"]


def test_librispeech_becomes_records_by_its_own_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "librispeech/LibriSpeech"
    files = {
        f"{root}/train-clean-100/19/198/19-198.trans.txt": "19-198-0 A MUG\n19-198-1 GONE\n",
        f"{root}/train-clean-100/19/198/19-198-0.flac": "",
        f"{root}/dev-clean/84/1/84-1.trans.txt": "84-1-0 A DOG\n",
        f"{root}/dev-clean/84/1/84-1-0.flac": "",
    }
    brought("librispeech", files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name="librispeech"), tmp_path / "out", seed=0)
    (row,) = rows(tmp_path / "out", "librispeech", "train")
    assert row.record.conversations[1].value == "a mug"
    assert str(row.audios[0]) == "audio:train-clean-100/19/198/19-198-0.flac"
    assert [row.id for row in rows(tmp_path / "out", "librispeech", "dev")] == ["84-1-0"]
    assert "no recording" in (tmp_path / "out" / "train.rejects.jsonl").read_text()


def test_libritts_becomes_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = "libritts/LibriTTS/train-clean-100/19/198"
    files = {
        f"{root}/19_198_0.wav": "",
        f"{root}/19_198_0.normalized.txt": "A mug,\nreally.",
        f"{root}/19_198_1.wav": "",
    }
    brought("libritts", files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name="libritts"), tmp_path / "out", seed=0)
    (row,) = rows(tmp_path / "out", "libritts", "train")
    assert row.record.conversations[1].value == "A mug, really."


def test_what_was_not_fetched_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CatalogueSource(name="llava-mix665k", folder=str(tmp_path / "data"))
    with pytest.raises(DataError) as caught:
        fetch(source, tmp_path / "out", seed=0)
    assert f"vita-train data fetch llava-mix665k --to {tmp_path / 'data'}" in caught.value.remedy
    assert "coco-train2017" in caught.value.what
    monkeypatch.delenv("VITA_TRAIN_DATA", raising=False)
    with pytest.raises(UserError) as unnamed:
        fetch(CatalogueSource(name="llava-mix665k"), tmp_path / "out", seed=0)
    assert "VITA_TRAIN_DATA" in unnamed.value.remedy
    with pytest.raises(UserError):
        fetch(CatalogueSource(name="nothing"), tmp_path / "out", seed=0)


def test_a_file_that_was_removed_is_not_taken_for_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"llava/llava_v1_5_mix665k.json": "[]"}
    brought("llava-mix665k", files, tmp_path, monkeypatch)
    (tmp_path / "data" / "llava" / "llava_v1_5_mix665k.json").unlink()
    with pytest.raises(DataError) as caught:
        fetch(CatalogueSource(name="llava-mix665k"), tmp_path / "out", seed=0)
    assert "vita-train data fetch llava-mix665k" in caught.value.remedy


def test_a_recipe_names_a_corpus_of_the_catalogue() -> None:
    source = '{"captions": {"kind": "catalogue", "name": "coco-captions"}}'
    recipe = load_recipe("smoke", [f"data.source={source}"])
    assert recipe.data.source["captions"] == CatalogueSource(name="coco-captions")
