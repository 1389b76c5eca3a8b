"""A file is there whole, or as it was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita_train.storage.whole_file import whole_file


def test_it_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with whole_file(path) as stream:
        stream.write("after ☞")
        assert path.read_text() == "before"
    assert path.read_text(encoding="utf-8") == "after ☞"
    assert list(tmp_path.iterdir()) == [path]


def break_off(path: Path) -> None:
    with whole_file(path) as stream:
        stream.write("half")
        raise RuntimeError


def test_nothing_is_left_of_one_that_broke_off(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(RuntimeError):
        break_off(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "no" / "a.json"):
        pass
    assert list(tmp_path.iterdir()) == []
