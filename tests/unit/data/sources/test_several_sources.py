"""Several sources under one registry, and datasets that say what their task is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from tests.helpers.plugin_world import write_records
from vita_train.data.sources.fetch import fetch_all
from vita_train.data.sources.reading import Row, read_records
from vita_train.data.sources.registry import load_registry, resolve
from vita_train.errors import DataError
from vita_train.recipe.sources import RecordsSource


def test_the_datasets_of_all_sources_make_up_one_registry(tmp_path: Path) -> None:
    shop, calls = write_records(tmp_path / "mine", 2)
    out = tmp_path / "raw"
    registry = fetch_all(
        {"photos": RecordsSource(registry=str(shop)), "calls": RecordsSource(registry=str(calls))},
        out,
        seed=0,
    )
    assert load_registry(out / "registry.json") == registry
    assert registry.tasks == {"goods": "qa", "hotline": "asr"}
    for entry in registry.datasets.values():
        for split in entry.splits.values():
            roots = {key: resolve(out / "registry.json", root) for key, root in split.roots.items()}
            rows = list(read_records(resolve(out / "registry.json", split.records), roots))
            assert len(rows) == 2
            assert all(isinstance(row, Row) for row in rows)


def test_an_image_folder_takes_the_place_of_every_root_but_that_of_audio(tmp_path: Path) -> None:
    shop, calls = write_records(tmp_path / "mine", 2)
    other = tmp_path / "elsewhere"
    other.mkdir()
    sources = {
        "photos": RecordsSource(registry=str(shop), image_folder=str(other)),
        "calls": RecordsSource(registry=str(calls), image_folder=str(other)),
    }
    plain = fetch_all({"calls": RecordsSource(registry=str(calls))}, tmp_path / "plain", seed=0)
    registry = fetch_all(sources, tmp_path / "raw", seed=0)
    for split in registry.datasets["goods"].splits.values():
        assert set(split.roots.values()) == {str(other)}
    heard = registry.datasets["hotline"].splits["train"].roots
    assert heard == plain.datasets["hotline"].splits["train"].roots
    with raises_code(DataError, "VT-DATA-022", str(tmp_path / "none")):
        gone = RecordsSource(registry=str(shop), image_folder=str(tmp_path / "none"))
        fetch_all({"photos": gone}, tmp_path / "again", seed=0)


def test_two_sources_with_a_dataset_of_one_name_are_refused(tmp_path: Path) -> None:
    shop, _ = write_records(tmp_path / "mine", 1)
    source = RecordsSource(registry=str(shop))
    with raises_code(DataError, "VT-DATA-020"):
        fetch_all({"one": source, "two": source}, tmp_path / "raw", seed=0)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"train": {"records": "r.json"}},
            [r"datasets.mine.task is missing", "kinds are caption (", "speech_qa ("],
        ),
        (
            {"task": "aks", "train": {"records": "r.json"}},
            ["there is no task kind 'aks'", "asr (the transcript"],
        ),
    ],
)
def test_a_dataset_without_a_kind_is_refused_with_the_list_of_kinds(
    tmp_path: Path, entry: object, words: list[str]
) -> None:
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"format": "vita-train/registry/v1", "datasets": {"mine": entry}}))
    with pytest.raises(DataError) as caught:
        load_registry(path)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)
