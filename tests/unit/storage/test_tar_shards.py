"""Folders as shards: what one machine made, another one has, byte for byte or not at all."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.helpers.s3_server import S3Server
from vita_train.errors import UserError
from vita_train.runs.manifest import Manifest
from vita_train.storage import tar_shards
from vita_train.storage.base import DamagedError, FileRef, Store
from vita_train.storage.local import LocalStore
from vita_train.storage.tar_shards import fetch_tree, publish_tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files in two folders, one of them empty."""
    made = tmp_path / "here" / "raw"
    (made / "pictures").mkdir(parents=True)
    for number in range(4):
        (made / "pictures" / f"{number}.jpg").write_bytes(bytes([number]) * 1000 * number)
    (made / "registry.json").write_text("{}")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def published(folder: Path, store: Store) -> Manifest:
    shards = publish_tree(folder, store, "r/data_fetch/shards")
    return Manifest(kind="data", run="r", stage="data_fetch", digest="d", files=shards)


def test_another_machine_gets_every_byte(
    folder: Path,
    tmp_path: Path,
    s3_store: Store,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tar_shards, "_SHARD_BYTES", 2500)
    manifest = published(folder, s3_store)
    assert len(manifest.files) == 4
    there = fetch_tree(manifest.files, tmp_path / "there" / "raw", endpoint=s3_server.endpoint)
    assert contents(there) == contents(folder)
    assert {path.relative_to(there): path.stat().st_mtime_ns for path in there.rglob("*.*")} == {
        path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*.*")
    }, "preparation tells by their times whether files are the same"
    assert sorted(path.name for path in there.parent.iterdir()) == ["raw", "raw.digest", "raw.lock"]


def test_what_is_here_is_not_fetched_again(
    folder: Path, tmp_path: Path, s3_store: Store, s3_server: S3Server
) -> None:
    manifest = published(folder, s3_store)
    s3_store.delete(s3_store.list("r/"))
    assert fetch_tree(manifest.files, folder, endpoint=s3_server.endpoint) == folder
    assert contents(folder)


def test_the_same_folder_gives_the_same_shards_and_a_changed_one_leaves_none_behind(
    folder: Path, s3_store: Store
) -> None:
    first = published(folder, s3_store)
    (folder / "registry.json").touch()
    assert published(folder, s3_store).files == first.files
    (folder / "registry.json").write_text('{"a": 1}')
    changed = published(folder, s3_store)
    assert changed.files != first.files
    assert len(s3_store.list("r/data_fetch/shards/")) == len(changed.files) == 1


def test_data_made_anew_of_the_same_inputs_replace_older_ones(
    folder: Path, tmp_path: Path, s3_store: Store, s3_server: S3Server
) -> None:
    there = tmp_path / "there" / "raw"
    fetch_tree(published(folder, s3_store).files, there, endpoint=s3_server.endpoint)
    (folder / "pictures" / "1.jpg").unlink()
    fetch_tree(published(folder, s3_store).files, there, endpoint=s3_server.endpoint)
    assert contents(there) == contents(folder)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _change_a_byte(path: Path) -> None:
    path.write_bytes(b"x" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    "change",
    [
        _truncate,
        _change_a_byte,
        Path.unlink,
        lambda path: path.with_name("more.jpg").write_bytes(b"x"),
    ],
)
def test_a_file_that_was_changed_here_is_fetched_again(
    folder: Path,
    tmp_path: Path,
    change: Callable[[Path], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = published(folder, LocalStore(tmp_path / "store"))
    there = fetch_tree(manifest.files, tmp_path / "there" / "raw")
    change(there / "pictures" / "2.jpg")
    fetch_tree(manifest.files, there)
    assert contents(there) == contents(folder)
    assert "was changed since it was fetched" in capsys.readouterr().err
    fetch_tree(manifest.files, there)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "0123abc", '{"digest": 1}'])
def test_a_note_that_cannot_be_read_costs_a_fetch(folder: Path, tmp_path: Path, text: str) -> None:
    manifest = published(folder, LocalStore(tmp_path / "store"))
    there = fetch_tree(manifest.files, tmp_path / "there" / "raw")
    there.with_name("raw.digest").write_text(text)
    assert contents(fetch_tree(manifest.files, there)) == contents(folder)
    assert there.with_name("raw.digest").read_text() != text


def _repack(shard: Path, change: Callable[[tarfile.TarInfo], None]) -> FileRef:
    with tarfile.open(shard, "w") as archive:
        entry = tarfile.TarInfo("a.txt")
        change(entry)
        archive.addfile(entry)
    return LocalStore(shard.parent / "store").upload(shard, "bad.tar")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda entry: setattr(entry, "name", "../out.txt"), UserError),
        (lambda entry: setattr(entry, "type", tarfile.SYMTYPE), DamagedError),
    ],
)
def test_a_shard_writes_nowhere_else(
    change: Callable[[tarfile.TarInfo], None], error: type[Exception], tmp_path: Path
) -> None:
    ref = _repack(tmp_path / "shard.tar", change)
    manifest = Manifest(
        kind="data", run="r", stage="data_fetch", digest="d", files={"shard-00000": ref}
    )
    with pytest.raises(error):
        fetch_tree(manifest.files, tmp_path / "there" / "raw")
    assert not (tmp_path / "there" / "raw").exists()
    assert not (tmp_path / "there" / "out.txt").exists()


def test_a_damaged_shard_is_refused(
    folder: Path, tmp_path: Path, s3_store: Store, s3_server: S3Server
) -> None:
    manifest = published(folder, s3_store)
    s3_store.write(s3_store.list("r/")[0], b"other bytes")
    with pytest.raises(DamagedError):
        fetch_tree(manifest.files, tmp_path / "there" / "raw", endpoint=s3_server.endpoint)
    assert not (tmp_path / "there" / "raw").exists()


def test_processes_that_ask_at_once_all_get_the_whole_folder(folder: Path, tmp_path: Path) -> None:
    manifest = published(folder, LocalStore(tmp_path / "store"))
    there = tmp_path / "there" / "raw"
    context = get_context("spawn")
    workers = [context.Process(target=fetch_tree, args=(manifest.files, there)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert contents(there) == contents(folder)


def test_whoever_asks_at_once_one_fetches(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = published(folder, LocalStore(tmp_path / "store"))
    fetched: list[Path] = []
    fetch = tar_shards._fetch

    def counted(shards: dict[str, FileRef], there: Path, endpoint: str | None) -> None:
        fetched.append(there)
        fetch(shards, there, endpoint)

    monkeypatch.setattr(tar_shards, "_fetch", counted)
    there = tmp_path / "there" / "raw"
    with ThreadPoolExecutor(
        4
    ) as pool:  # the lock holds between open files, so threads stand in for processes
        list(pool.map(lambda _: fetch_tree(manifest.files, there), range(4)))
    assert fetched == [there]
