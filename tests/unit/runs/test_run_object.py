"""A run knows where its parts lie, wherever its store is, and reads back what it wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import UserError
from vita_train.recipe.load import load_recipe
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run


def run_at(root: Path | str, name: str = "") -> Run:
    return Run(load_recipe("smoke", [f"storage.root={root}"]), name)


def test_it_is_named_after_its_recipe_unless_told_otherwise(tmp_path: Path) -> None:
    assert run_at(tmp_path).name == "smoke"
    assert run_at(tmp_path, "other").key("1.1", "final.json") == "other/1.1/final.json"
    with raises_code(UserError, "VT-USE-095"):
        run_at(tmp_path, "../up")


def test_folders_are_local_whatever_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    here, there = run_at(tmp_path, "r"), run_at("s3://bucket/runs", "r")
    assert (here.is_local, there.is_local) == (True, False)
    assert here.corpus_dir == tmp_path / "r" / "prepare" / "corpus"
    assert there.corpus_dir == tmp_path / "cache" / "runs" / "r" / "prepare" / "corpus"


def test_a_commit_is_read_back(tmp_path: Path) -> None:
    run = run_at(tmp_path, "r")
    assert run.final("prepare") is None
    manifest = Manifest(kind="prepared", run="r", stage="prepare", digest="d")
    run.commit("prepare", manifest)
    assert run.final("prepare") == manifest
    assert (
        run.own_store().read("prepare/final.json")
        == Path(tmp_path / "r/prepare/final.json").read_bytes()
    )


def test_a_run_is_found_where_it_was_moved_to(tmp_path: Path) -> None:
    run = run_at(tmp_path / "old", "r")
    run.write_recipe()
    shutil.move(tmp_path / "old" / "r", tmp_path / "new" / "s")
    found = Run.open(str(tmp_path / "new" / "s"))
    assert found.name == "s"
    assert found.dir == tmp_path / "new" / "s"
    assert found.recipe.stages == run.recipe.stages
    with raises_code(UserError, "VT-USE-097"):
        Run.open(str(tmp_path / "old"))


def test_the_recipe_is_written_only_when_it_changes(tmp_path: Path) -> None:
    run = run_at(tmp_path, "r")
    run.write_recipe()
    os.utime(tmp_path / "r" / "recipe.yaml", (0, 0))
    run.write_recipe()
    assert (tmp_path / "r" / "recipe.yaml").stat().st_mtime == 0
