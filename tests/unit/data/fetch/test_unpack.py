"""Archives: parts in order, whole or not at all, and nothing that leads out of the folder."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from vita_train.data.fetch import unpack as unpack_module
from vita_train.data.fetch.archives import archives_among
from vita_train.data.fetch.unpack import merge, unpack, unpack_inside
from vita_train.errors import DataError, UserError

CHANCE = random.Random(5)
FILES = {
    **{f"train/{number:03}.bin": CHANCE.randbytes(20_000) for number in range(30)},
    "readme.txt": b"text" * 100,
}


def make_tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def make_zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def zstd(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, "zstd", asbytes=True))


def unpacked(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def bring(root: Path) -> dict[str, bytes]:
    """Unpack the one archive in a folder and return what it holds."""
    (archive,) = archives_among(path.name for path in root.iterdir())
    staging = root.parent / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    unpack(archive, root, staging, lambda count: None)
    return unpacked(staging)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


WAYS: dict[str, Callable[[], bytes]] = {
    "a.tar": lambda: make_tar(FILES),
    "a.tar.gz": lambda: gzip.compress(make_tar(FILES)),
    "a.tgz": lambda: gzip.compress(make_tar(FILES)),
    "a.tar.zst": lambda: zstd(make_tar(FILES)),
    "a.zip": lambda: make_zip(FILES),
}
NAMINGS: dict[str, Callable[[int], str]] = {
    "digits": lambda number: f".{number + 1:03}",
    "part": lambda number: f".part_{number:03}",
    "part without zeros": lambda number: f"_part{number}",
    "letters": lambda number: f".part-{chr(97 + number // 26)}{chr(97 + number % 26)}",
}


@pytest.mark.parametrize("name", WAYS)
def test_every_kind_of_archive_unpacks(root: Path, name: str) -> None:
    (root / name).write_bytes(WAYS[name]())
    assert bring(root) == FILES


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_parts_are_joined_in_natural_order(root: Path, name: str, naming: str) -> None:
    data = WAYS[name]()
    size = len(data) // 11 + 1  # part 10 comes after part 9, not after part 1
    for number in range(11):
        piece = data[number * size : (number + 1) * size]
        (root / (name + NAMINGS[naming](number))).write_bytes(piece)
    assert bring(root) == FILES


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs Info-ZIP")
def test_a_zip_that_info_zip_split_unpacks(root: Path, tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    command = ["zip", "-q", "-r", "-s", "64k", str(root / "a.zip"), "."]
    subprocess.run(command, cwd=tmp_path / "in", check=True)
    assert len(list(root.iterdir())) > 3
    assert bring(root) == FILES


def test_single_compressed_files_lose_their_suffix(root: Path) -> None:
    (root / "a.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    assert bring(root) == {"a.jsonl": b"{}\n"}


@pytest.mark.parametrize(
    "names",
    [["a.tar.part_000", "a.tar.part_002"], ["a.z01", "a.z02"], ["a.tar.002", "a.tar.003"]],
)
def test_missing_parts_are_told(names: list[str]) -> None:
    with pytest.raises(DataError):
        archives_among(names)


def special(kind: bytes, name: str = "x", link: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        archive.addfile(member)
    return stream.getvalue()


def zip_link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        member = zipfile.ZipInfo("x")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return stream.getvalue()


def encrypted() -> bytes:
    data = bytearray(make_zip({"x": b"1" * 50}))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + offset] |= 1
    return bytes(data)


HOSTILE = {
    "traversal.tar": make_tar({"../x": b"1"}),
    "absolute.tar": make_tar({"/tmp/x": b"1"}),
    "deep.tar": make_tar({"a/../../x": b"1"}),
    "backslash.tar": make_tar({"..\\x": b"1"}),
    "traversal.zip": make_zip({"../x": b"1"}),
    "absolute.zip": make_zip({"/tmp/x": b"1"}),
    "link.tar": special(tarfile.SYMTYPE, link="/etc/passwd"),
    "linkout.tar": special(tarfile.SYMTYPE, link="../../x"),
    "hardlink.tar": special(tarfile.LNKTYPE, link="/etc/passwd"),
    "device.tar": special(tarfile.CHRTYPE),
    "block.tar": special(tarfile.BLKTYPE),
    "pipe.tar": special(tarfile.FIFOTYPE),
    "long.tar": make_tar({"x" * 300: b"1"}),
    "link.zip": zip_link(),
    "encrypted.zip": encrypted(),
    "cut.tar": make_tar(FILES)[:-30_000],
    "cut.tar.gz": gzip.compress(make_tar(FILES))[:-1000],
    "cut.tar.zst": zstd(make_tar(FILES))[:-1000],
    "cut.zip": make_zip(FILES)[:-500],
    "spoilt.zip": make_zip(FILES).replace(FILES["train/000.bin"][:50], b"0" * 50),
    "html.tar.gz": b"<html>Please sign in</html>",
    "html.zip": b"<html>Please sign in</html>",
    "html.zst": b"<html>Please sign in</html>",
    "empty.zip": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_archive_is_refused(root: Path, name: str) -> None:
    (root / name).write_bytes(HOSTILE[name])
    with pytest.raises(DataError):
        bring(root)
    assert (root / name).exists()
    assert sorted(path.name for path in root.parent.iterdir()) == ["root", "staging"]
    assert not any(path.is_symlink() for path in root.parent.rglob("*"))


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz", "bomb.tar.zst", "bomb.gz", "liar.zip"])
def test_bombs_end_at_the_limit(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_module, "_ALWAYS", 1 << 20)
    zeros = bytes(20 << 20)
    data = {
        "bomb.zip": lambda: make_zip({"x": zeros}),
        "bomb.tar.gz": lambda: gzip.compress(make_tar({"x": zeros})),
        "bomb.tar.zst": lambda: zstd(make_tar({"x": zeros})),
        "bomb.gz": lambda: gzip.compress(zeros),
        "liar.zip": lambda: make_zip({"x": zeros}).replace(
            (20 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little")
        ),
    }[name]()
    (root / name).write_bytes(data)
    with pytest.raises(DataError):
        bring(root)
    written = sum(
        path.stat().st_size for path in (root.parent / "staging").rglob("*") if path.is_file()
    )
    assert written <= (1 << 20) + 200 * len(data)


def test_links_to_files_of_the_archive_become_those_files(root: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("a/x")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
        for kind, name, link in (
            (tarfile.SYMTYPE, "b/y", "../a/x"),
            (tarfile.LNKTYPE, "b/z", "a/x"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            archive.addfile(member)
    (root / "a.tar").write_bytes(stream.getvalue())
    assert bring(root) == {"a/x": b"abc", "b/y": b"abc", "b/z": b"abc"}
    assert not any(path.is_symlink() for path in (root.parent / "staging").rglob("*"))


def test_merging_may_be_repeated_after_it_was_stopped(tmp_path: Path) -> None:
    for folder in ("staging", "target"):
        (tmp_path / folder / "sub").mkdir(parents=True)
    (tmp_path / "target" / "sub" / "old").write_text("o")
    for name in ("a", "b"):
        (tmp_path / "staging" / "sub" / name).write_text(name)
    os.replace(tmp_path / "staging" / "sub" / "a", tmp_path / "target" / "sub" / "a")
    merge(tmp_path / "staging", tmp_path / "target")
    assert unpacked(tmp_path / "target") == {"sub/a": b"a", "sub/b": b"b", "sub/old": b"o"}
    assert not (tmp_path / "staging").exists()


def test_archives_within_an_archive_are_unpacked_where_they_lie(tmp_path: Path) -> None:
    def packed(path: Path, files: dict[str, bytes]) -> bytes:
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path.read_bytes()

    inner = packed(tmp_path / "inner.tar.gz", {"train/S1/a.wav": b"sound"})
    packed(tmp_path / "outer.tgz", {"d/wav/S1.tar.gz": inner, "d/text.txt": b"a text"})
    (archive,) = archives_among(["outer.tgz"])
    out = tmp_path / "out"
    unpack(archive, tmp_path, out, lambda count: None)
    assert unpack_inside(out, "*/wav/*.tar.gz", lambda count: None) == (0, 5 - len(inner))
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"d/wav/train/S1/a.wav", "d/text.txt"}
    with pytest.raises(UserError):
        unpack_inside(out, "*/none/*.tar.gz", lambda count: None)
