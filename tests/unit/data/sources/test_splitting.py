"""Splits made of training records: nothing is in two of them, nothing is lost, and what records
have in common stays together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.data_world import recipe, small_world, turns
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.inputs import unmeasured
from vita_train.data.prepare.run import prepare
from vita_train.data.sources.reading import Reject, Row
from vita_train.data.sources.registry import load_registry
from vita_train.data.sources.source import open_split
from vita_train.errors import DataError
from vita_train.recipe.schema import Recipe

ROOTS = {"pics": "pics", "audio": "sounds"}


def split(
    at: Path, records: list[dict[str, Any]], **split_off: Any
) -> dict[str, list[Row | Reject]]:
    (at / "r.json").write_text(json.dumps(records))
    (at / "registry.json").write_text(
        json.dumps(
            {
                "datasets": {
                    "d": {
                        "task": "qa",
                        "split_off": split_off,
                        "train": {"records": "r.json", "roots": ROOTS},
                    }
                }
            }
        )
    )
    registry = load_registry(at / "registry.json")
    return {
        name: list(open_split(at / "registry.json", registry, "d", name).rows())
        for name in registry.datasets["d"].split_names
    }


def pictures(number: int, *names: str) -> dict[str, Any]:
    return {
        "id": number,
        "set": "pics",
        "image": list(names),
        "conversations": turns("<image>" * len(names), "b"),
    }


def test_every_record_is_in_one_split_and_shares_are_near(tmp_path: Path) -> None:
    records = [{"id": n, "conversations": turns("a", "b")} for n in range(2000)]
    found = split(tmp_path, records, parts={"dev": 0.1, "test": 150})
    rows = sorted(row.row for part in found.values() for row in part)
    assert rows == list(range(2000))
    assert len(found["test"]) == 150
    assert 150 < len(found["dev"]) < 250


def test_a_group_is_never_divided(tmp_path: Path) -> None:
    records = [pictures(n, f"p{n % 300}.jpg") for n in range(1500)]
    records += [pictures(1500 + n, f"p{n}.jpg", f"p{n + 100}.jpg") for n in range(0, 100, 5)]
    found = split(tmp_path, records, parts={"dev": 0.2, "test": 100}, by="image")
    seen = [
        {ref.name for row in part if isinstance(row, Row) for ref in row.images}
        for part in found.values()
    ]
    for one in range(3):
        for other in range(one):
            assert not seen[one] & seen[other]
    assert sum(len(part) for part in found.values()) == len(records)
    assert len(found["test"]) >= 100


def test_the_order_of_the_file_and_new_records_move_nothing(tmp_path: Path) -> None:
    records = [pictures(n, f"p{n // 3}.jpg") for n in range(600)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = split(tmp_path / "a", records, parts={"dev": 0.2}, by="image")
    more = [*reversed(records), *(pictures(n, f"q{n}.jpg") for n in range(600, 700))]
    second = split(tmp_path / "b", more, parts={"dev": 0.2}, by="image")
    assert {row.id for row in first["dev"]} == {
        row.id for row in second["dev"] if int(row.id) < 600
    }


def test_speakers_are_kept_apart_and_a_missing_one_is_a_reject(tmp_path: Path) -> None:
    records = [
        {"id": n, "audio": f"s{n % 40}/u{n}.wav", "conversations": turns("<audio>", "b")}
        for n in range(400)
    ]
    records.append({"id": 400, "audio": "u.wav", "conversations": turns("<audio>", "b")})
    found = split(tmp_path, records, parts={"dev": 0.2, "test": 20}, by="speaker")
    speakers = [
        {row.audios[0].name.split("/")[0] for row in part if isinstance(row, Row)}
        for part in found.values()
    ]
    assert not speakers[0] & speakers[1]
    assert not speakers[0] & speakers[2]
    assert not speakers[1] & speakers[2]
    assert [row.reason for row in found["train"] if isinstance(row, Reject)] == ["no speaker"]
    assert sum(len(part) for part in found.values()) == 401


def test_another_pattern_and_seed(tmp_path: Path) -> None:
    records = [
        {"id": n, "audio": f"spk{n % 40:02d}_{n}.wav", "conversations": turns("<audio>", "b")}
        for n in range(400)
    ]
    parts = {"dev": 0.3}
    one = split(tmp_path, records, parts=parts, by="speaker", pattern=r"spk(\d+)_")
    other = split(tmp_path, records, parts=parts, by="speaker", pattern=r"spk(\d+)_", seed=1)
    assert {row.id for row in one["dev"]} != {row.id for row in other["dev"]}


@pytest.mark.parametrize(
    "parts", [{"dev": 5}, {"dev": 4}, {"dev": 1, "test": 4}, {"dev": 0.000001}]
)
def test_a_split_that_would_be_empty_is_refused(tmp_path: Path, parts: dict[str, Any]) -> None:
    records = [pictures(n, f"p{n}.jpg") for n in range(4)]
    with pytest.raises(DataError) as caught:
        split(tmp_path, records, parts=parts, by="image")
    assert "d (" in caught.value.where


def test_rejected_rows_are_counted_once_in_train(tmp_path: Path) -> None:
    records: list[Any] = [{"id": n, "conversations": turns("a", "b")} for n in range(50)]
    records[10] = {"id": 10}
    found = split(tmp_path, records, parts={"dev": 10})
    assert [row.row for row in found["train"] if isinstance(row, Reject)] == [10]
    assert not [row for row in found["dev"] if isinstance(row, Reject)]


def test_prepared_splits_are_those_of_the_registry(tmp_path: Path) -> None:
    path = small_world(tmp_path, 12)
    value = json.loads(path.read_text())
    value["datasets"]["talk"]["split_off"] = {"parts": {"dev": 4}}
    path.write_text(json.dumps(value))
    ledger = prepare(recipe(), path, tmp_path / "one")
    again = prepare(recipe(), path, tmp_path / "two", workers=2)
    assert [split.digest for split in ledger.splits] == [split.digest for split in again.splits]
    corpus = Corpus.open(tmp_path / "one")
    ids = [
        {corpus.index("talk", split).sample(n).record_id for n in range(size)}
        for split, size in (("dev", 4), ("train", 8))
    ]
    assert len(ids[0] | ids[1]) == 12


def test_a_stage_that_would_measure_nothing_says_so(tmp_path: Path) -> None:
    path = small_world(tmp_path, 12)
    value = recipe().model_dump(mode="json")
    value["stages"]["2.1a"]["eval"]["interval"] = 1
    spec = Recipe.model_validate(value)
    hears = [line for line in unmeasured(spec, load_registry(path)) if "2.1a" in line]
    assert hears
    assert "split_off" in hears[0]
    value = json.loads(path.read_text())
    value["datasets"]["hear"]["split_off"] = {"parts": {"dev": 4}}
    path.write_text(json.dumps(value))
    assert not [line for line in unmeasured(spec, load_registry(path)) if "2.1a" in line]
