"""Checkpoints are whole or do not count."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import PeerLostError, StorageError, UserError
from vita_train.storage.base import DamagedError, MissingKeyError, Store
from vita_train.storage.checkpoints.attempt import Attempt, attempts, begin_attempt, staging_folder
from vita_train.storage.checkpoints.commit import (
    commit_at,
    commit_checkpoint,
    latest_commit,
    restore,
    save_rank_files,
)
from vita_train.storage.checkpoints.committer import AsyncCommitter
from vita_train.storage.checkpoints.retention import retire
from vita_train.storage.local import LocalStore
from vita_train.storage.s3 import S3Store


def content(step: int, rank: int) -> bytes:
    return f"step {step} rank {rank} ".encode() * (100 + rank)


def write_files(folder: Path, step: int, rank: int) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step}-{rank}.bin"
    path.write_bytes(content(step, rank))
    return {f"shards/optim-{rank}.bin": path}


def save(store: Store, attempt: Attempt, step: int, folder: Path, world_size: int = 2) -> None:
    for rank in range(world_size):
        save_rank_files(store, attempt, step, rank, write_files(folder, step, rank))
    commit_checkpoint(store, attempt, step, world_size, meta={"step": step})


def restored(store: Store, stage: str, folder: Path) -> int | None:
    """Restore the newest checkpoint and compare every byte; return its step."""
    commit = latest_commit(store, stage)
    if commit is None:
        return None
    place = restore(store, commit, folder)
    assert commit.manifest.world_size == len(commit.files)
    for rank in range(commit.manifest.world_size):
        assert (place / f"shards/optim-{rank}.bin").read_bytes() == content(commit.step, rank)
    assert commit.meta == {"step": commit.step}
    return commit.step


def test_roundtrip_by_two_ranks(store: Store, tmp_path: Path) -> None:
    assert latest_commit(store, "run/1.1") is None
    attempt = begin_attempt(store, "run/1.1")
    save(store, attempt, 1000, tmp_path / "a")
    save(store, attempt, 200, tmp_path / "b")
    assert restored(store, "run/1.1", tmp_path / "r") == 1000
    assert store.exists("run/1.1/committed/step-00001000.json")
    assert store.exists(f"run/1.1/attempt-{attempt.id}/step-00001000/rank-1.json")


def test_files_without_a_marker_do_not_count(store: Store, tmp_path: Path) -> None:
    attempt = begin_attempt(store, "s")
    save(store, attempt, 10, tmp_path)
    for rank in range(2):
        save_rank_files(store, attempt, 20, rank, write_files(tmp_path, 20, rank))
    assert restored(store, "s", tmp_path / "r") == 10


def test_commit_needs_every_rank(store: Store, tmp_path: Path) -> None:
    attempt = begin_attempt(store, "s")
    save_rank_files(store, attempt, 10, 0, write_files(tmp_path, 10, 0))
    with pytest.raises(MissingKeyError):
        commit_checkpoint(store, attempt, 10, 2)
    assert latest_commit(store, "s") is None


def test_two_ranks_may_not_share_a_name(store: Store, tmp_path: Path) -> None:
    attempt = begin_attempt(store, "s")
    for rank in range(2):
        (tmp_path / "x").write_bytes(b"x")
        save_rank_files(store, attempt, 10, rank, {"same.bin": tmp_path / "x"})
    with raises_code(StorageError, "VT-STORE-001", "same.bin"):
        commit_checkpoint(store, attempt, 10, 2)


@pytest.mark.parametrize("name", ["manifest.json", "rank-0.json", "../x", ""])
def test_reserved_names(store: Store, tmp_path: Path, name: str) -> None:
    attempt = begin_attempt(store, "s")
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(UserError):
        save_rank_files(store, attempt, 10, 0, {name: tmp_path / "x"})


@pytest.mark.parametrize(
    "damage", ["marker", "empty marker", "manifest", "no manifest", "file", "no file"]
)
def test_damage_falls_back_to_the_checkpoint_before(
    store: Store, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = begin_attempt(store, "s")
    save(store, attempt, 10, tmp_path)
    save(store, attempt, 20, tmp_path)
    prefix = attempt.step_prefix(20)
    if damage == "marker":
        store.write(
            "s/committed/step-00000020.json", store.read("s/committed/step-00000020.json")[:-9]
        )
    elif damage == "empty marker":
        store.write("s/committed/step-00000020.json", b"")
    elif damage == "manifest":
        store.write(
            f"{prefix}/manifest.json", store.read(f"{prefix}/manifest.json").replace(b"20", b"21")
        )
    elif damage == "no manifest":
        store.delete([f"{prefix}/manifest.json"])
    elif damage == "file":
        store.write(f"{prefix}/shards/optim-1.bin", content(20, 1)[:-1])
    else:
        store.delete([f"{prefix}/shards/optim-1.bin"])
    assert restored(store, "s", tmp_path / "r") == 10
    assert "passed over" in caplog.text


def test_changed_bytes_of_the_same_size_are_found_when_restoring(
    store: Store, tmp_path: Path
) -> None:
    attempt = begin_attempt(store, "s")
    save(store, attempt, 10, tmp_path)
    save(store, attempt, 20, tmp_path)
    key = f"{attempt.step_prefix(20)}/shards/optim-1.bin"
    store.write(key, b"X" + content(20, 1)[1:])
    commit = latest_commit(store, "s")
    assert commit is not None
    with pytest.raises(DamagedError) as caught:
        restore(store, commit, tmp_path / "r")
    assert store.uri_of(key) in str(caught.value)
    older = latest_commit(store, "s", refused={commit.marker_key})
    assert older is not None
    assert older.step == 10


def test_restore_takes_only_what_is_selected(s3_store: S3Store, tmp_path: Path) -> None:
    attempt = begin_attempt(s3_store, "s")
    save(s3_store, attempt, 10, tmp_path)
    commit = latest_commit(s3_store, "s")
    assert commit is not None
    place = restore(s3_store, commit, tmp_path / "r", select=lambda name: name.endswith("-1.bin"))
    assert [path.name for path in place.rglob("*.bin")] == ["optim-1.bin"]


class Counted(LocalStore):
    """Counts what is asked of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        self.asked["read"] += 1
        return super().read(key)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        self.asked["sizes"] += 1
        self.asked["files"] += len(found := super().sizes(prefix))
        return found


def test_requests_do_not_grow_with_the_ranks(tmp_path: Path) -> None:
    """Of 256 ranks one lists the files, once; the others read the marker and the manifest."""
    world, store = 256, Counted(tmp_path / "store")
    attempt = begin_attempt(store, "s")
    save(store, attempt, 10, tmp_path / "files", world)
    store.asked.clear()
    commit = latest_commit(store, "s")
    assert commit is not None
    assert len(commit.files) == world
    assert store.asked == {"read": 2, "sizes": 1, "files": 2 * world + 1}
    store.asked.clear()
    assert commit_at(store, commit.marker_key) == commit
    assert store.asked == {"read": 2}


def test_another_rank_must_see_the_chosen_checkpoint(store: Store, tmp_path: Path) -> None:
    attempt = begin_attempt(store, "s")
    save(store, attempt, 10, tmp_path)
    commit = latest_commit(store, "s")
    assert commit is not None
    assert commit_at(store, commit.marker_key) == commit
    with pytest.raises(MissingKeyError):
        commit_at(store, "s/committed/step-00000011.json")
    store.write(f"{commit.prefix}/manifest.json", b"{}")
    with pytest.raises(DamagedError):
        commit_at(store, commit.marker_key)


def test_later_attempt_is_preferred_and_fences_the_earlier(store: Store, tmp_path: Path) -> None:
    first = begin_attempt(store, "s")
    save(store, first, 100, tmp_path)
    second = begin_attempt(store, "s")
    assert (first.restarts, second.restarts) == (0, 1)
    assert attempts(store, "s") == {first.id: 0, second.id: 1}
    save(store, second, 50, tmp_path)
    assert restored(store, "s", tmp_path / "r") == 50
    save_rank_files(store, first, 200, 0, write_files(tmp_path, 200, 0))
    with pytest.raises(PeerLostError):
        commit_checkpoint(store, first, 200, 1)
    save(
        store, second, 100, tmp_path
    )  # the same step as the first attempt's: the later history counts
    commit = latest_commit(store, "s")
    assert commit is not None
    assert (commit.step, commit.manifest.attempt) == (100, second.id)


def test_attempts_that_begin_together_get_different_numbers(store: Store) -> None:
    begun: list[Attempt] = []
    threads = [
        threading.Thread(target=lambda: begun.append(begin_attempt(store, "s"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(attempt.restarts for attempt in begun) == [0, 1, 2, 3]


def steps_in(store: Store, stage: str) -> tuple[list[int], list[tuple[str, int]]]:
    """Return the steps with markers, and the (attempt, step) pairs with data."""
    committed = [int(key[-13:-5]) for key in store.list(f"{stage}/committed/")]
    data = {
        (key.split("/")[1], int(key.split("/")[2].removeprefix("step-")))
        for key in store.list(f"{stage}/attempt-")
    }
    return committed, sorted(data)


def test_retention_keeps_the_last_and_what_is_being_written(store: Store, tmp_path: Path) -> None:
    dead = begin_attempt(store, "s")
    save(store, dead, 10, tmp_path)
    save_rank_files(store, dead, 20, 0, write_files(tmp_path, 20, 0))
    own = begin_attempt(store, "s")
    retire(store, own, keep_last=1)
    assert steps_in(store, "s")[0] == [10], (
        "nothing goes before the attempt has a checkpoint of its own"
    )
    for step in (20, 30, 40):
        save(store, own, step, tmp_path)
    save_rank_files(store, own, 35, 1, write_files(tmp_path, 35, 1))
    save_rank_files(store, own, 50, 1, write_files(tmp_path, 50, 1))
    later = begin_attempt(store, "s")
    save_rank_files(store, later, 40, 0, write_files(tmp_path, 40, 0))
    retire(store, own, keep_last=2)
    committed, data = steps_in(store, "s")
    assert committed == [30, 40]
    assert data == sorted(
        [
            (f"attempt-{own.id}", 30),
            (f"attempt-{own.id}", 40),
            (f"attempt-{own.id}", 50),
            (f"attempt-{later.id}", 40),
        ]
    )
    assert restored(store, "s", tmp_path / "r") == 40


def test_retention_deletes_markers_before_data(tmp_path: Path) -> None:
    class Recording(LocalStore):
        deleted: list[str] = []

        def delete(self, keys) -> None:
            keys = list(keys)
            self.deleted += keys
            super().delete(keys)

    store = Recording(tmp_path / "store")
    attempt = begin_attempt(store, "s")
    for step in (1, 2, 3):
        save(store, attempt, step, tmp_path)
    retire(store, attempt, keep_last=1)
    kinds = ["committed" if "/committed/" in key else "data" for key in store.deleted]
    assert kinds == sorted(kinds)
    assert kinds.count("committed") == 2


def test_committers_of_two_ranks(store: Store, tmp_path: Path) -> None:
    attempt = begin_attempt(store, "s")
    committers = [
        AsyncCommitter(store, attempt, rank, 2, keep_last=2, poll=0.01) for rank in range(2)
    ]
    for step in (10, 20, 30):
        for rank, committer in enumerate(committers):
            staging = staging_folder(store, attempt, rank)
            committer.submit(step, write_files(staging, step, rank), meta={"step": step})
        for committer in committers:
            committer.wait()
    assert restored(store, "s", tmp_path / "r") == 30
    assert steps_in(store, "s")[0] == [20, 30]
    assert list(staging.iterdir()) == [], "files are handed over, not copied"


def test_committer_tells_what_went_wrong(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    attempt = begin_attempt(store, "s")
    committer = AsyncCommitter(store, attempt, 0, 2, peer_timeout=0.05, poll=0.01)
    committer.submit(10, write_files(tmp_path, 10, 0))
    with raises_code(PeerLostError, "VT-PEER-006", "[1]"):
        committer.wait()
    committer.wait()
    committer.submit(20, {"gone.bin": tmp_path / "gone.bin"})
    with raises_code(MissingKeyError, "VT-STORE-026", "gone.bin"):
        committer.submit(30, write_files(tmp_path, 30, 0))
    assert latest_commit(store, "s") is None


def test_staging_of_dead_attempts_is_removed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    first = staging_folder(store, begin_attempt(store, "s"), 0)
    (first / "half.bin").write_bytes(b"half")
    second = begin_attempt(store, "s")
    folders = [staging_folder(store, second, rank) for rank in range(2)]
    assert all(folder.is_dir() for folder in folders)
    assert not first.exists()
    assert not any("half.bin" in key for key in store.list())


def test_manifest_is_plain_json(store: Store, tmp_path: Path) -> None:
    attempt = begin_attempt(store, "s")
    save(store, attempt, 7, tmp_path, world_size=1)
    manifest = json.loads(store.read(f"{attempt.step_prefix(7)}/manifest.json"))
    assert manifest["step"] == 7
    assert list(manifest["ranks"][0]["files"]) == ["shards/optim-0.bin"]
