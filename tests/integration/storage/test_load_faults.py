"""S3 faults while files are fetched: the node's cache holds whole files or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.checkpoints import (
    NAMES,
    STAGE,
    assert_told,
    content,
    files_below,
    save,
    whole_step,
)
from tests.helpers.s3_faults import FaultProxy, Kind
from vita_train.errors import EXIT_RETRYABLE, StorageError
from vita_train.runs.manifest import Manifest
from vita_train.storage.base import DamagedError, FileRef
from vita_train.storage.cache import fetch_file
from vita_train.storage.checkpoints.attempt import begin_attempt
from vita_train.storage.checkpoints.commit import latest_commit, restore
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.s3 import S3Store
from vita_train.storage.tar_shards import fetch_tree, publish_tree

PASSING: list[tuple[Kind, str, int]] = [
    ("InternalError", "GET", 6),
    ("SlowDown", "GET", 2),
    ("cut answer", "GET", 9),
    ("lost answer", "GET", 6),
    ("changed answer", "GET .*/large.bin", 1),
]
LASTING: list[tuple[Kind, str]] = [
    ("InternalError", "GET .*/large.bin"),
    ("cut answer", "GET .*/large.bin"),
]


@pytest.fixture
def weights(direct: S3Store, tmp_path: Path) -> FileRef:
    """A file in two parts."""
    path = tmp_path / "large.bin"
    path.write_bytes(content(0, "large"))
    return direct.upload(path, "first/1.2/final/large.bin")


@pytest.mark.parametrize(("kind", "match", "times"), PASSING)
def test_a_file_through_faults_that_pass(
    weights: FileRef, proxy: FaultProxy, kind: Kind, match: str, times: int
) -> None:
    fault = proxy.spoil(kind, match, times=times)
    assert fetch_file(weights, endpoint=proxy.endpoint).read_bytes() == content(0, "large")
    assert fault.left == 0
    assert len(files_below(cache_dir())) == 1


@pytest.mark.parametrize(("kind", "match"), LASTING)
def test_a_file_through_faults_that_last(
    weights: FileRef, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, kind: Kind, match: str
) -> None:
    monkeypatch.setattr("vita_train.storage.s3.RETRY_TIMEOUT", 1.0)
    proxy.spoil(kind, match)
    with pytest.raises(StorageError) as caught:
        fetch_file(weights, endpoint=proxy.endpoint)
    assert caught.value.exit_code == EXIT_RETRYABLE
    assert_told(caught.value, weights.uri)
    assert files_below(cache_dir()) == []
    proxy.heal()
    assert fetch_file(weights, endpoint=proxy.endpoint).read_bytes() == content(0, "large")


def test_a_file_that_is_replaced_while_it_comes(
    weights: FileRef, store: S3Store, direct: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    def replace_before_second_part() -> None:
        if proxy.requests.count(proxy.requests[-1]) == 2:
            other = tmp_path / "other.bin"
            other.write_bytes(content(1, "large"))
            direct.upload(other, "first/1.2/final/large.bin")

    proxy.spoil("late", "GET .*/large.bin", times=2, before=replace_before_second_part)
    with pytest.raises(DamagedError) as caught:
        store.download(
            "first/1.2/final/large.bin", tmp_path / "back" / "large.bin", sha256=weights.sha256
        )
    assert_told(caught.value, weights.uri)
    assert files_below(tmp_path / "back") == []


@pytest.mark.parametrize(
    ("kind", "match", "times"),
    [
        *PASSING,
        ("cut answer", "GET .*/(committed|manifest)", 4),
        ("InternalError", "GET .*prefix=", 6),
    ],
)
def test_a_checkpoint_through_faults_that_pass(
    store: S3Store,
    direct: S3Store,
    proxy: FaultProxy,
    tmp_path: Path,
    kind: Kind,
    match: str,
    times: int,
) -> None:
    save(direct, begin_attempt(direct, STAGE), 10, tmp_path / "work")
    fault = proxy.spoil(kind, match, times=times)
    assert whole_step(store, tmp_path / "back") == (10, "")
    assert fault.left == 0
    assert files_below(tmp_path / "back") == sorted(NAMES)


@pytest.mark.parametrize(
    "match",
    [
        "GET .*prefix=.*committed",
        "GET .*/committed/",
        "GET .*/manifest.json",
        "GET .*prefix=",
        "GET .*/large.bin",
    ],
)
def test_a_store_that_is_away_is_never_taken_for_a_damaged_checkpoint(
    hasty: S3Store, direct: S3Store, proxy: FaultProxy, tmp_path: Path, match: str
) -> None:
    attempt = begin_attempt(direct, STAGE)
    for step in (10, 20):
        save(direct, attempt, step, tmp_path / "work")
    proxy.spoil("InternalError", match)
    with pytest.raises(StorageError) as caught:
        whole_step(hasty, tmp_path / "back")
    assert caught.value.exit_code == EXIT_RETRYABLE
    assert_told(caught.value, direct.uri)
    assert set(files_below(tmp_path / "back")) <= {"optim-1.bin"}, (
        "whole files stay, half ones do not"
    )
    proxy.heal()
    assert whole_step(hasty, tmp_path / "back") == (20, "")


def test_one_file_that_fails_ends_the_fetching_of_a_thousand(
    direct: S3Store, proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    save(direct, begin_attempt(direct, STAGE), 10, tmp_path / "work")
    commit = latest_commit(direct, STAGE)
    assert commit is not None
    rank = commit.manifest.ranks[1]
    many = rank.model_copy(
        update={"files": {f"gone-{n}.bin": rank.files["optim-1.bin"] for n in range(1000)}}
    )
    wide = commit.manifest.model_copy(update={"ranks": (many,)})
    store = S3Store(bucket, "runs", endpoint=proxy.endpoint, attempts=1, retry_timeout=0)
    proxy.spoil("InternalError", "GET .*/gone-")
    with pytest.raises(StorageError):
        restore(store, type(commit)(commit.marker_key, commit.prefix, wide), tmp_path / "back")
    assert len(proxy.requests) < 100


@pytest.mark.parametrize(("kind", "times"), [("cut answer", 3), ("InternalError", 3)])
def test_a_folder_through_faults(
    direct: S3Store,
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    times: int,
) -> None:
    made, there = tmp_path / "made" / "raw", tmp_path / "there" / "raw"
    made.mkdir(parents=True)
    for number in range(3):
        (made / f"{number}.jpg").write_bytes(content(number, "image"))
    monkeypatch.setattr("vita_train.storage.tar_shards._SHARD_BYTES", 60_000)
    shards = publish_tree(made, direct, "first/data_fetch/shards")
    assert len(shards) > 1
    manifest = Manifest(kind="data", run="first", stage="data_fetch", digest="digest", files=shards)
    last = max(shards)

    lasting = proxy.spoil(kind, last)
    monkeypatch.setattr("vita_train.storage.s3.RETRY_TIMEOUT", 0.5)
    with pytest.raises(StorageError) as caught:
        fetch_tree(manifest.files, there, endpoint=proxy.endpoint)
    assert_told(caught.value, shards[last].uri)
    assert lasting.seen > 1
    assert files_below(there.parent) == []

    proxy.heal()
    monkeypatch.setattr("vita_train.storage.s3.RETRY_TIMEOUT", 60.0)
    proxy.spoil(kind, times=times)
    fetch_tree(manifest.files, there, endpoint=proxy.endpoint)
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        f"{number}.jpg": content(number, "image") for number in range(3)
    }
