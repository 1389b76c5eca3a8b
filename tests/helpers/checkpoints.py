"""Checkpoints of two ranks, one with a file that goes up in parts, saved by the functions that
training uses."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vita_train.errors import VitaError
from vita_train.storage.base import Store
from vita_train.storage.checkpoints.attempt import Attempt
from vita_train.storage.checkpoints.commit import (
    Commit,
    commit_checkpoint,
    latest_commit,
    restore,
    save_rank_files,
)
from vita_train.storage.checkpoints.retention import retire
from vita_train.storage.s3 import MIB, S3Store

STAGE = "first/1.2"
NAMES = ("weights/large.bin", "optim-1.bin")


def content(step: int, name: str, mark: str = "") -> bytes:
    """Return what a file of a step holds: six MiB for the large one, two parts."""
    return hashlib.shake_256(f"{step} {name} {mark}".encode()).digest(
        6 * MIB if "large" in name else 40_000
    )


def save(store: Store, attempt: Attempt, step: int, folder: Path, mark: str = "") -> Commit:
    """Save and commit a step for both ranks, then let go of old checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, name in enumerate(NAMES):
        path = folder / f"{step}-{rank}{mark}.bin"
        path.write_bytes(content(step, name, mark))
        save_rank_files(store, attempt, step, rank, {name: path}, move=True)
    commit = commit_checkpoint(store, attempt, step, len(NAMES), meta={"mark": mark})
    retire(store, attempt, keep_last=2)
    return commit


def whole_step(store: Store, folder: Path) -> tuple[int, str] | None:
    """Return step and mark of the checkpoint that a restart would take, every byte of it compared;
    None for none."""
    commit = latest_commit(store, STAGE)
    if commit is None:
        return None
    place = restore(store, commit, folder)
    for name in NAMES:
        assert (place / name).read_bytes() == content(commit.step, name, commit.meta["mark"])
    return commit.step, commit.meta["mark"]


def unfinished_uploads(store: S3Store) -> list[str]:
    """Return the keys of uploads that were begun and neither finished nor aborted."""
    listed = store._client.list_multipart_uploads(Bucket=store.bucket)
    return [upload["Key"] for upload in listed.get("Uploads", [])]


def files_below(folder: Path) -> list[str]:
    """Return the files of a cache, without the locks that stay."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def assert_told(error: VitaError, uri: str) -> None:
    """An error says what, where and what to do, in words that need no library's manual."""
    assert error.what
    assert uri in error.where
    assert error.remedy
    assert "Traceback" not in str(error)
    assert "\n" not in str(error)
