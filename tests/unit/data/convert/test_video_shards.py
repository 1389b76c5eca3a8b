"""V23: broken clips are left out of shards, and the index says what is in them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from tests.helpers.media_zoo import steady, write_video
from vita_train.cli.main import build_app
from vita_train.data.convert.video_shards import INDEX, META, clean_shards, index_shards
from vita_train.errors import DataError, UserError


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    return write_video(tmp_path / "clip.mp4", steady(10)).read_bytes()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 12345
            tar.addfile(entry, io.BytesIO(data))
    return path


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_v23_broken_clips_are_rejected_and_the_index_is_that_of_the_rest(
    tmp_path: Path, clip: bytes
) -> None:
    shards = tmp_path / "shards"
    write_tar(
        shards / "00001.tar",
        {
            "a.mp4": clip,
            "a.json": b"{}",
            "b.mp4": clip[: len(clip) // 2],  # cut off
            "b.json": b"{}",
            "c.mp4": b"",  # no frame at all
            "d.json": b"{}",
            "deep/e.v1.mp4": clip,
        },
    )
    write_tar(shards / "00000.tar", {"z.mp4": clip})
    out = tmp_path / "out"
    counts = clean_shards(shards, out)
    assert (counts.samples, counts.kept, counts.reasons.total()) == (6, 3, 3)
    assert names(out / "00001.tar") == ["a.mp4", "a.json", "deep/e.v1.mp4"]
    rejects = (out / "00001.rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["where"] for line in rejects] == [
        *("00001.tar:b", "00001.tar:c", "00001.tar:d")
    ]
    index = json.loads((out / INDEX).read_text())["shardlist"]
    assert [(entry["url"], entry["nsamples"]) for entry in index] == [
        *(("00000.tar", 1), ("00001.tar", 2))
    ]
    for entry in index:
        assert entry["filesize"] == (out / entry["url"]).stat().st_size
    before = state(out)
    assert clean_shards(shards, out) == counts  # nothing is done again
    for path in out.glob("*.json"):
        path.unlink()
    assert index_shards(out) == 3
    assert state(out) == before  # a missing index is built again, the same
    (out / "00001.tar").unlink()
    clean_shards(shards, out)
    assert state(out) == before


def test_v23_a_shard_that_changed_is_counted_again(tmp_path: Path, clip: bytes) -> None:
    shard = write_tar(tmp_path / "a.tar", {"a.mp4": clip})
    index_shards(tmp_path)
    write_tar(shard, {"a.mp4": clip, "b.mp4": clip})
    result = CliRunner().invoke(build_app(), ["data", "video-shards", str(tmp_path)])
    assert "2 samples" in result.output
    assert json.loads(shard.with_name(f"a.tar{META}").read_text())["nsamples"] == 2


def test_v23_what_is_no_shard_is_refused(tmp_path: Path, clip: bytes) -> None:
    with raises_code(UserError, "VT-USE-297", str(tmp_path)):
        index_shards(tmp_path)
    shard = write_tar(tmp_path / "a.tar", {"a.mp4": clip * 9})
    with raises_code(UserError, "VT-USE-296", str(tmp_path)):
        clean_shards(tmp_path, tmp_path)
    shard.write_bytes(shard.read_bytes()[:2000])
    with raises_code(DataError, "VT-DATA-139", "a.tar"):
        clean_shards(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "a.tar").exists()
    assert not list((tmp_path / "out").glob("*.part"))
