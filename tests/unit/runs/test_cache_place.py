"""One folder is the cache of this machine, whoever asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita_train.cli.main import _write_log
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run
from vita_train.storage.host_cache import cache_dir


def test_a_home_folder_in_the_variable_means_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VITA_TRAIN_CACHE", "~/mine")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("smoke", ["storage.root=s3://bucket/runs"])
    assert cache_dir() == tmp_path / "mine"
    assert Run(recipe, "r").dir == tmp_path / "mine" / "runs" / "r"
    assert _write_log("text").parent == tmp_path / "mine" / "logs"
    assert not (tmp_path / "~").exists()
