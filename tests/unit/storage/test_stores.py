"""What both kinds of store promise."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from tests.helpers.s3_server import S3Server
from vita_train.errors import UserError
from vita_train.storage.base import PRIVATE, DamagedError, KeyExistsError, MissingKeyError, Store
from vita_train.storage.factory import open_file, open_store
from vita_train.storage.local import LocalStore
from vita_train.storage.s3 import MIB, S3Store
from vita_train.storage.store_probe import try_store


def test_bytes_come_back(store: Store) -> None:
    store.write("a/b/c.json", b"one")
    assert store.read("a/b/c.json") == b"one"
    assert store.exists("a/b/c.json")
    assert store.size("a/b/c.json") == 3
    store.write("a/b/c.json", b"longer")
    assert store.read("a/b/c.json") == b"longer"


def test_a_trial_leaves_nothing_and_finds_a_store_that_lets_a_second_writer_win(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_store(store, "run/logs")
    assert store.list() == []
    write = type(store).write
    monkeypatch.setattr(
        type(store), "write", lambda self, key, data, *, if_absent=False: write(self, key, data)
    )
    with raises_code(UserError, "VT-USE-116"):
        try_store(store)
    assert store.list() == []


def test_list_is_sorted_and_by_prefix(store: Store) -> None:
    for key in ("s/step-2", "s/step-10", "s/x/y", "t", "s-other/z"):
        store.write(key, b"")
    assert store.list() == ["s-other/z", "s/step-10", "s/step-2", "s/x/y", "t"]
    assert store.list("s/") == ["s/step-10", "s/step-2", "s/x/y"]
    assert store.list("s/st") == ["s/step-10", "s/step-2"]
    assert store.list("nothing/here") == []


def test_sizes_come_with_the_listing(store: Store) -> None:
    for key, data in {"s/b": b"12", "s/a": b"", "t": b"1"}.items():
        store.write(key, data)
    assert [*store.sizes("s/").items()] == [("s/a", 0), ("s/b", 2)]
    assert store.sizes("nothing/") == {}


def test_delete_takes_only_what_is_named(store: Store) -> None:
    for key in ("a/1", "a/2", "b"):
        store.write(key, b"x")
    store.delete(["a/1", "never/was"])
    assert store.list() == ["a/2", "b"]
    store.delete(["a/2"])
    store.write("a/3", b"folder made again")
    assert store.list() == ["a/3", "b"]


def test_upload_and_download_carry_the_hash(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    source = tmp_path / "weights.bin"
    source.write_bytes(data)
    ref = store.upload(source, "w/weights.bin")
    assert (ref.uri, ref.bytes, ref.sha256) == (
        store.uri_of("w/weights.bin"),
        len(data),
        hashlib.sha256(data).hexdigest(),
    )
    assert source.exists()
    target = tmp_path / "new" / "copy.bin"
    store.download("w/weights.bin", target, sha256=ref.sha256)
    assert target.read_bytes() == data


def test_move_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "part.bin"
    source.write_bytes(b"payload")
    ref = store.upload(source, "w/part.bin", move=True)
    assert not source.exists()
    assert store.read("w/part.bin") == b"payload"
    assert ref.sha256 == hashlib.sha256(b"payload").hexdigest()


def test_download_of_other_bytes_leaves_no_file(store: Store, tmp_path: Path) -> None:
    store.write("w", b"damaged")
    target = tmp_path / "w"
    with pytest.raises(DamagedError) as caught:
        store.download("w", target, sha256="0" * 64)
    assert store.uri_of("w") in str(caught.value)
    assert list(tmp_path.glob("[!s]*")) == []


@pytest.mark.parametrize("verb", ["read", "size", "download"])
def test_missing_key_is_named(store: Store, tmp_path: Path, verb: str) -> None:
    store.write("there", b"")
    arguments = (tmp_path / "out",) if verb == "download" else ()
    with pytest.raises(MissingKeyError) as caught:
        getattr(store, verb)("not/there", *arguments)
    assert store.uri_of("not/there") in str(caught.value)
    assert not store.exists("not/there")


@pytest.mark.parametrize("key", ["../up", "/absolute", "a//b", "", "a/./b", "a/"])
def test_keys_cannot_leave_the_root(store: Store, key: str) -> None:
    with pytest.raises(UserError):
        store.write(key, b"")


def test_if_absent_keeps_the_first(store: Store) -> None:
    store.write("marker", b"first", if_absent=True)
    with pytest.raises(KeyExistsError) as caught:
        store.write("marker", b"second", if_absent=True)
    assert store.uri_of("marker") in str(caught.value)
    assert store.read("marker") == b"first"
    store.write("marker", b"first", if_absent=True)  # a repeated write of one writer is no conflict


def test_of_racing_writers_one_wins(store: Store) -> None:
    if isinstance(store, S3Store):
        assert store.honours_conditions
    for round_number in range(4):
        winners: list[int] = []
        barrier = threading.Barrier(6)

        def write(
            writer: int,
            key: str = f"marker-{round_number}",
            barrier: threading.Barrier = barrier,
            winners: list[int] = winners,
        ) -> None:
            barrier.wait()
            try:
                store.write(key, f"writer {writer}".encode(), if_absent=True)
                winners.append(writer)
            except KeyExistsError:
                pass

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert store.read(f"marker-{round_number}") == f"writer {winners[0]}".encode()


def test_if_absent_without_conditional_writes(s3_store: S3Store) -> None:
    s3_store.__dict__["honours_conditions"] = False  # a server that ignores If-None-Match
    s3_store.write("marker", b"first", if_absent=True)
    with pytest.raises(KeyExistsError):
        s3_store.write("marker", b"second", if_absent=True)
    assert s3_store.read("marker") == b"first"


def test_probe_leaves_nothing_in_the_bucket(s3_store: S3Store) -> None:
    assert s3_store.honours_conditions
    listed = s3_store._client.list_objects_v2(Bucket=s3_store.bucket)
    assert listed.get("Contents", []) == []


def test_large_file_goes_in_parts(
    s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vita_train.storage.s3.PART_BYTES", 5 * MIB)
    source = tmp_path / "large.bin"
    source.write_bytes(hashlib.shake_256(b"seed").digest(12 * MIB + 17))
    ref = s3_store.upload(source, "large.bin")
    assert ref.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    head = s3_store._client.head_object(Bucket=s3_store.bucket, Key="some/prefix/large.bin")
    assert head["ETag"].strip('"').endswith("-3")
    s3_store.download("large.bin", tmp_path / "back.bin", sha256=ref.sha256)
    assert (tmp_path / "back.bin").read_bytes() == source.read_bytes()


def test_sweep_ends_unfinished_uploads(s3_store: S3Store) -> None:
    for key in ("a/dead.bin", "b/alive.bin"):
        s3_store._client.create_multipart_upload(Bucket=s3_store.bucket, Key=f"some/prefix/{key}")
    s3_store.write("a/whole.bin", b"whole")
    s3_store.sweep("a")
    left = s3_store._client.list_multipart_uploads(Bucket=s3_store.bucket).get("Uploads", [])
    assert [upload["Key"] for upload in left] == ["some/prefix/b/alive.bin"]
    assert s3_store.read("a/whole.bin") == b"whole"


def test_sweep_leaves_uploads_that_are_young(
    s3_store: S3Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if s3_server.kind == "moto":
        pytest.skip("moto gives every upload the same date")
    begin = partial(s3_store._client.create_multipart_upload, Bucket=s3_store.bucket)
    begin(Key="some/prefix/run/1.1/old.bin")
    begin(Key="some/prefix/other-run/old.bin")
    time.sleep(1.5)  # servers date by the second
    between = datetime.now(UTC)
    time.sleep(1.5)
    begin(Key="some/prefix/run/1.1/young.bin")

    class DayLater(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return between + timedelta(days=1)

    monkeypatch.setattr("vita_train.storage.s3.datetime", DayLater)
    for dry_run in (True, False):
        swept = s3_store.sweep("run", older_than=timedelta(days=1), dry_run=dry_run)
        assert swept == ("run/1.1/old.bin",)
    left = s3_store._client.list_multipart_uploads(Bucket=s3_store.bucket)["Uploads"]
    assert {upload["Key"] for upload in left} == {
        "some/prefix/other-run/old.bin",
        "some/prefix/run/1.1/young.bin",
    }
    assert s3_store.sweep() == ("other-run/old.bin", "run/1.1/young.bin"), (
        "of the whole store, whatever their age"
    )


def test_sweep_takes_an_upload_that_another_sweep_has_ended(s3_store: S3Store) -> None:
    s3_store._client.create_multipart_upload(Bucket=s3_store.bucket, Key="some/prefix/a/dead.bin")
    pages = s3_store._pages("list_multipart_uploads", "Uploads", "some/prefix/a/")
    s3_store.sweep("a")
    s3_store.__dict__["_pages"] = lambda *arguments: pages
    assert s3_store.sweep("a") == ("a/dead.bin",)


def test_sweep_leaves_files_that_are_young(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    old, young = (tmp_path / "run" / "1.1" / f"{PRIVATE}{name}" for name in ("old", "young"))
    staged = tmp_path / "run" / "1.1" / f"{PRIVATE}staging" / "dead" / "rank-0" / "state.pt"
    for path in (old, young, staged):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for path in (old, staged):
        os.utime(path, (time.time() - 90_000,) * 2)
    store.write("run/1.1/final.json", b"whole")
    os.utime(tmp_path / "run" / "1.1" / "final.json", (0, 0))
    rehearsed = store.sweep(older_than=timedelta(days=1), dry_run=True)
    swept = store.sweep("run", older_than=timedelta(days=1))
    assert (
        rehearsed == swept == tuple(path.relative_to(tmp_path).as_posix() for path in (old, staged))
    )
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        young.name,
        "final.json",
    ]


def test_sweep_removes_unfinished_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("a/x/whole.bin", b"whole")
    for name in ("a/x/.vita-tmp-1", "a/y/.vita-tmp-2", "b/.vita-tmp-3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    store.sweep("a")
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["a", "x", "whole.bin", "b", ".vita-tmp-3"]
    )


def test_open_store_reads_uris(tmp_path: Path, s3_store: S3Store) -> None:
    spaced = tmp_path / "with space"
    for uri in (str(spaced), spaced.as_uri()):
        opened = open_store(uri)
        assert isinstance(opened, LocalStore)
        assert opened.root == spaced
    opened = open_store(s3_store.uri + "/", endpoint=s3_store._server)
    assert opened.uri == s3_store.uri
    folder, key = open_file(s3_store.uri_of("a/b.bin"), endpoint=s3_store._server)
    assert (folder.uri, key) == (s3_store.uri_of("a"), "b.bin")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3:///x", "http://host/x", "s3:/bucket/x"])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(uri)
    assert uri in str(caught.value)


def test_local_listing_hides_unfinished_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("a", b"1")
    (tmp_path / ".vita-tmp-dead-writer").write_bytes(b"half")
    assert store.list() == ["a"]


def test_file_in_the_way_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file")
    with pytest.raises(UserError) as caught:
        LocalStore(tmp_path / "root").write("a/b", b"")
    assert "root" in str(caught.value)
