"""Archives joined from parts and unpacked, and what never costs anybody their input."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from vita_train.cli.tools import tools
from vita_train.data.tools.archives import extract_all, join_parts
from vita_train.errors import DataError

PATTERNS = ("{}.tar.gz.part_{:03d}", "{}.tar.gz_part{}")


def archive_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def noise(count: int) -> bytes:
    return b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(count))


FILES = {f"media/{number}.bin": noise(40 + number) for number in range(5)}


def split(folder: Path, pattern: str, parts: int = 12, name: str = "allava") -> bytes:
    whole = archive_bytes(FILES)
    size = -(-len(whole) // parts)
    for number in range(parts):
        piece = whole[number * size : (number + 1) * size]
        (folder / pattern.format(name, number)).write_bytes(piece)
    return whole


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a3_twelve_parts_become_the_original_in_natural_order(tmp_path: Path, pattern: str) -> None:
    whole = split(tmp_path, pattern)
    (joined,) = join_parts(tmp_path)
    assert (joined.parts, joined.files) == (12, len(FILES))
    assert [path.name for path in tmp_path.iterdir()] == ["allava.tar.gz"]
    assert (tmp_path / "allava.tar.gz").read_bytes() == whole
    assert joined.sha256 == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("lost", [0, 4, 11])
def test_a3_a_missing_part_is_refused_and_the_others_stay(
    tmp_path: Path, pattern: str, lost: int
) -> None:
    split(tmp_path, pattern)
    (tmp_path / pattern.format("allava", lost)).unlink()
    there = sorted(tmp_path.iterdir())
    with pytest.raises(DataError):
        join_parts(tmp_path)
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize(("number", "bytes_less"), [(3, 1), (11, 1), (11, 8)])
def test_a3_a_short_part_is_refused(tmp_path: Path, number: int, bytes_less: int) -> None:
    split(tmp_path, PATTERNS[0])
    part = tmp_path / PATTERNS[0].format("allava", number)
    part.write_bytes(part.read_bytes()[:-bytes_less])
    with pytest.raises(DataError):
        join_parts(tmp_path)
    assert len(list(tmp_path.iterdir())) == 12


def test_a3_names_choose_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    split(tmp_path, PATTERNS[1])
    split(tmp_path, PATTERNS[1], name="data_engine")
    result = CliRunner().invoke(tools, ["merge_tars", "allava", "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "allava.tar.gz").exists()
    assert not (tmp_path / "data_engine.tar.gz").exists()
    with raises_code(DataError, "VT-DATA-120", "laion", ".tar.gz.part_000"):
        join_parts(tmp_path, ["laion"])


def test_a4_a_corrupt_archive_stays_and_the_others_are_unpacked(tmp_path: Path) -> None:
    whole = archive_bytes(FILES)
    middle = len(whole) // 2
    broken = whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 40])
    (tmp_path / "a.tar.gz").write_bytes(broken + whole[middle + 40 :])
    (tmp_path / "b.tar.gz").write_bytes(archive_bytes({"b/1.bin": b"1", "b/2.bin": b"2"}))
    result = CliRunner().invoke(tools, ["extract", "--folder", str(tmp_path)])
    assert result.exit_code == 1, result.output
    assert (tmp_path / "a.tar.gz").exists()
    assert not (tmp_path / "media").exists()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["1.bin", "2.bin"]
    assert not (tmp_path / "b.tar.gz").exists()


def test_a4_files_are_those_of_the_listing_and_again_is_nothing(tmp_path: Path) -> None:
    split(tmp_path, PATTERNS[0], name="m4")
    (done,) = extract_all(tmp_path)
    assert (done.files, done.fault) == (len(FILES), "")
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert extract_all(tmp_path) == []


@pytest.mark.parametrize("name", ["../out.bin", "/tmp/out.bin", "a/../../out.bin"])
def test_a4_a_path_that_escapes_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "x.tar.gz").write_bytes(archive_bytes({name: b"1"}))
    (done,) = extract_all(folder)
    assert done.fault
    assert (folder / "x.tar.gz").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_v2_a_shard_whose_zip_is_cut_off_is_caught_and_stays(tmp_path: Path) -> None:
    names = [f"docs_shard_{number}_v3.jsonl" for number in range(3)]
    for name in names:
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as shard:
            shard.writestr(name, noise(200).hex())
    cut = tmp_path / f"{names[1]}.zip"
    cut.write_bytes(cut.read_bytes()[:3000])
    found = extract_all(tmp_path)
    assert [bool(each.fault) for each in found] == [False, True, False]
    there = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert there == [names[0], cut.name, names[2]]
