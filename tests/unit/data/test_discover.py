"""A folder becomes a registry and a recipe that can be run, and what was not understood is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.helpers.data_world import turns
from tests.helpers.errors import raises_code
from vita_train.cli.main import build_app
from vita_train.data.check.run import check
from vita_train.data.discover.look import look_at
from vita_train.data.discover.project import write_project
from vita_train.data.sources.registry import load_registry
from vita_train.errors import UserError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import load_recipe

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "own_data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example's media and records, without what was written by hand about them."""
    return Path(
        shutil.copytree(
            EXAMPLE, tmp_path / "My Photos", ignore=shutil.ignore_patterns("*.yaml", "*.md")
        )
    )


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def test_the_example_is_found_as_it_was_written_by_hand(folder: Path) -> None:
    found = look_at(folder, folder)
    by_hand = load_registry(EXAMPLE / "registry.yaml")
    assert found.registry.tasks == {**by_hand.tasks, "talk": "instruct"}  # of one round each
    assert {name: set(dataset.splits) for name, dataset in found.registry.datasets.items()} == {
        "captions": {"train"},
        "questions": {"train", "test"},
        "announcements": {"train"},
        "talk": {"train"},
    }
    for name, dataset in found.registry.datasets.items():
        for split, source in dataset.splits.items():
            expected = by_hand.datasets[name].splits[split]
            assert (source.records, source.roots) == (expected.records, expected.roots)
    assert found.notes == []


def test_what_is_written_can_be_run_and_loses_no_record(folder: Path, tmp_path: Path) -> None:
    registry, recipe = write_project(look_at(folder, tmp_path / "out"), "", tmp_path / "out")
    resolved = load_recipe(str(recipe))
    check_recipe(resolved)
    assert list(resolved.stages) == ["learn", "recognise", "listen"]
    assert check(registry, resolved, workers=1).ledger.rejected == 0
    with raises_code(UserError, "VT-USE-031"):
        write_project(look_at(folder, tmp_path / "out"), "", tmp_path / "out")


def test_texts_beside_media_become_records(tmp_path: Path) -> None:
    for kind, name in (("images", "cat.jpg"), ("recordings", "conf-now-muted.wav")):
        (tmp_path / "x").mkdir(exist_ok=True)
        shutil.copy(EXAMPLE / kind / name, tmp_path / "x" / name)
        (tmp_path / "x" / name).with_suffix(".txt").write_text(f"About {name}\n")
    shutil.copy(EXAMPLE / "images" / "coffee.jpg", tmp_path / "x")
    found = look_at(tmp_path, tmp_path)
    assert found.registry.tasks == {"captions": "caption", "transcripts": "asr"}
    assert found.written["captions.json"][0]["conversations"][1]["value"] == "About cat.jpg"
    (note,) = found.notes
    assert "coffee.jpg" in note
    registry, recipe, *_ = write_project(found, "mine", tmp_path)
    assert check(registry, load_recipe(str(recipe)), workers=1).ledger.used == 2


def test_roots_are_found_by_where_the_named_files_lie(tmp_path: Path) -> None:
    for place in ("a/photos/2024", "b"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(EXAMPLE / "images" / "cat.jpg", tmp_path / place / "cat.jpg")
    conversation = turns("<image>\nwhat?", "a cat")
    write(
        tmp_path / "train" / "pets.json",
        [
            {"id": 1, "set": "album", "image": "2024/cat.jpg", "conversations": conversation},
            {"id": 2, "set": "album", "image": "2024/dog.jpg", "conversations": conversation},
            {"id": 3, "conversations": "none"},
        ],
    )
    found = look_at(tmp_path, tmp_path)
    split = found.registry.datasets["pets"].splits["train"]
    assert (split.records, split.roots) == ("train/pets.json", {"album": "a/photos"})
    assert any("1 of 3 records would be rejected" in note for note in found.notes)
    assert any("2024/dog.jpg" in note for note in found.notes)
    assert any("b/cat.jpg" in note for note in found.notes)


def test_images_among_recordings_train_what_sees_them(tmp_path: Path) -> None:
    for kind, name in (("images", "cat.jpg"), ("recordings", "conf-now-muted.wav")):
        shutil.copy(EXAMPLE / kind / name, tmp_path / name)
    asked = {"image": "cat.jpg", "conversations": turns("<image>\nwhat?", "a cat")}
    heard = {"audio": "conf-now-muted.wav", "conversations": turns("<audio>", "you are muted")}
    write(tmp_path / "both.json", [{"id": 1, **asked}, {"id": 2, **heard}])
    _, recipe, *_ = write_project(look_at(tmp_path, tmp_path), "mine", tmp_path)
    (stage,) = load_recipe(str(recipe)).stages.values()
    assert set(stage.trainable) >= {"vision", "projector", "audio_encoder", "audio_adapter"}


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[1, 2]", "[[[["])
def test_foreign_json_is_named_and_ends_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(UserError) as caught:
        look_at(tmp_path, tmp_path)
    assert "settings.json" in str(caught.value)


def test_the_command_says_what_to_do_next(folder: Path) -> None:
    (folder / "odd.json").write_text("[1]")
    done = CliRunner().invoke(build_app(), ["data", "init", str(folder)])
    assert done.exit_code == 0, done.output
    assert "questions: qa, 120 records for training (train, test)" in done.output.replace("\n", " ")
    assert "not understood: odd.json" in done.output
    assert f"vita-train run {folder / 'recipe.yaml'}" in done.output.replace("\n", "")
    assert load_recipe(str(folder / "recipe.yaml")).name == "my-photos"
