"""The synthetic world by way of archives that are served, fetched and unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita_train.data.sources.fetch import fetch_all
from vita_train.recipe.sources import SynthArchivesSource, SynthSource

MADE = {"scale": 0.01, "test_size": 6, "datasets": ("caption", "video", "instruct")}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("parts", [1, 5])
def test_what_was_served_and_unpacked_is_the_world_itself(tmp_path: Path, parts: int) -> None:
    fetched = SynthArchivesSource(**MADE, parts=parts)
    fetch_all({"world": fetched}, tmp_path / "fetched", seed=5, workers=1)
    fetch_all({"world": SynthSource(**MADE)}, tmp_path / "made", seed=5, workers=1)
    found, expected = files(tmp_path / "fetched"), files(tmp_path / "made")
    del expected["world/facts.jsonl"]
    assert found == expected


def test_datasets_are_named_as_those_of_the_world() -> None:
    with pytest.raises(ValueError, match="captions"):
        SynthArchivesSource(datasets=("captions",))
