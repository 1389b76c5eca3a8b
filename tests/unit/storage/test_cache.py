"""Files of a store as local files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vita_train.storage.base import DamagedError, FileRef, MissingKeyError
from vita_train.storage.cache import fetch_file
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.local import LocalStore
from vita_train.storage.s3 import S3Store


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))


def stored(store: LocalStore | S3Store, tmp_path: Path, data: bytes = b"weights") -> FileRef:
    source = tmp_path / "source.bin"
    source.write_bytes(data)
    return store.upload(source, "m/llm.safetensors")


def test_local_file_is_used_where_it_lies(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    ref = stored(store, tmp_path)
    assert fetch_file(ref) == tmp_path / "store" / "m" / "llm.safetensors"
    assert fetch_file(ref.model_copy(update={"uri": Path(ref.uri).as_uri()})) == Path(ref.uri)
    assert not cache_dir().exists()


@pytest.mark.parametrize("data", [b"weight", b"WEIGHTS"], ids=["truncated", "changed"])
def test_damaged_local_file(tmp_path: Path, data: bytes) -> None:
    ref = stored(LocalStore(tmp_path / "store"), tmp_path)
    fetch_file(ref)
    Path(ref.uri).write_bytes(data)
    with pytest.raises(DamagedError) as caught:
        fetch_file(ref)
    assert ref.uri in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError):
        fetch_file(FileRef(uri=str(tmp_path / "gone"), sha256="0", bytes=1))


def test_s3_file_is_downloaded_once(s3_store: S3Store, tmp_path: Path) -> None:
    ref = stored(s3_store, tmp_path)
    path = fetch_file(ref, endpoint=s3_store._server)
    assert path.read_bytes() == b"weights"
    assert path.suffix == ".safetensors"
    s3_store.delete(["m/llm.safetensors"])
    assert fetch_file(ref, endpoint=s3_store._server) == path


def test_damaged_s3_file_never_enters_the_cache(s3_store: S3Store, tmp_path: Path) -> None:
    ref = stored(s3_store, tmp_path)
    s3_store.write("m/llm.safetensors", b"WEIGHTS")
    with pytest.raises(DamagedError) as caught:
        fetch_file(ref, endpoint=s3_store._server)
    assert ref.uri in str(caught.value)
    assert [
        path for path in cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock"
    ] == []


def test_truncated_cache_file_is_fetched_again(s3_store: S3Store, tmp_path: Path) -> None:
    ref = stored(s3_store, tmp_path)
    path = fetch_file(ref, endpoint=s3_store._server)
    path.write_bytes(b"wei")
    assert fetch_file(ref, endpoint=s3_store._server).read_bytes() == b"weights"


def test_many_processes_share_one_download(s3_store: S3Store, tmp_path: Path) -> None:
    ref = stored(s3_store, tmp_path, b"x" * 300_000)
    code = (
        "import sys; from vita_train.storage.base import FileRef; from vita_train.storage.cache "
        "import fetch_file\n"
        "ref = FileRef.model_validate_json(sys.argv[1]); print(len(fetch_file(ref, "
        "endpoint=sys.argv[2]).read_bytes()))"
    )
    command = [sys.executable, "-c", code, ref.model_dump_json(), s3_store._server]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate(timeout=120)[0].strip() for process in processes] == [b"300000"] * 3
    files = [path for path in cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert len(files) == 1


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_cached_file_that_was_changed_is_fetched_again_and_that_is_told(
    s3_store: S3Store, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = stored(s3_store, tmp_path)
    path = fetch_file(ref, endpoint=s3_store._server)
    assert fetch_file(ref, endpoint=s3_store._server) == path
    assert not capsys.readouterr().err
    path.write_bytes(b"weighTs" if damage == "flip" else b"weig")
    assert fetch_file(ref, endpoint=s3_store._server).read_bytes() == b"weights"
    assert f"warning: {path} in this node's cache" in capsys.readouterr().err
