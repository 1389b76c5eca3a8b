"""A writer killed at any moment leaves the newest checkpoint whole, and the next start goes on from
it.

The writer is a forked process that kills itself at its n-th call to the system (local) or n-th
request (S3), for n all through the life of three checkpoints.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.storage.checkpoints.test_commit import content, restored
from vita_train.storage.base import Store
from vita_train.storage.checkpoints.attempt import begin_attempt
from vita_train.storage.checkpoints.commit import commit_checkpoint, save_rank_files
from vita_train.storage.checkpoints.retention import retire
from vita_train.storage.local import LocalStore
from vita_train.storage.s3 import S3Store

SYSTEM_CALLS = ("replace", "fsync", "link", "unlink", "rmdir", "mkdir")


class Countdown:
    """Kills this process when it has been asked `left` times."""

    def __init__(self, left: int) -> None:
        self.left = left

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def write_checkpoints(store: Store, folder: Path) -> None:
    """Three checkpoints of one rank, as training writes them."""
    folder.mkdir(exist_ok=True)
    attempt = begin_attempt(store, "s")
    for step in (1, 2, 3):
        path = folder / "part.bin"
        path.write_bytes(content(step, 0))
        save_rank_files(store, attempt, step, 0, {"shards/optim-0.bin": path}, move=True)
        commit_checkpoint(store, attempt, step, 1, meta={"step": step})
        retire(store, attempt, keep_last=2)


def run_and_die(work: Callable[[Countdown], None], calls: int) -> bool:
    """Fork, work, be killed after `calls` calls; say whether the work was done before."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(Countdown(calls))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the writer failed on its own"
    return not os.WIFSIGNALED(status)


def test_local_writer_killed_at_every_call(tmp_path: Path) -> None:
    def work(countdown: Countdown) -> None:
        for name in SYSTEM_CALLS:
            original = getattr(os, name)

            def counted(*arguments: Any, _original: Any = original, **options: Any) -> Any:
                countdown.tick()
                return _original(*arguments, **options)

            setattr(os, name, counted)
        write_checkpoints(LocalStore(tmp_path / f"store-{calls}"), tmp_path / f"work-{calls}")

    seen = []
    for calls in range(1000):
        done = run_and_die(work, calls)
        store = LocalStore(tmp_path / f"store-{calls}")
        seen.append(restored(store, "s", tmp_path))
        if calls % 7 == 0:
            write_checkpoints(store, tmp_path / "again")
            assert restored(store, "s", tmp_path) == 3
            assert len(store.list("s/committed/")) == 2
        if done:
            break
    assert done
    assert len(seen) > 40
    steps = [step or 0 for step in seen]
    assert steps == sorted(steps), "a later death never shows an older checkpoint"
    assert set(steps) == {0, 1, 2, 3}


def test_s3_writer_killed_at_many_requests(s3_store: S3Store, tmp_path: Path) -> None:
    server = s3_store._server

    def work(countdown: Countdown) -> None:
        store = S3Store(s3_store.bucket, f"kill-{calls}", endpoint=server)
        store._client.meta.events.register("before-send.s3", lambda **_: countdown.tick())
        write_checkpoints(store, tmp_path / f"work-{calls}")

    steps = []
    for calls in (4, 11, 17, 20, 24, 30, 40, 200):
        done = run_and_die(work, calls)
        store = S3Store(s3_store.bucket, f"kill-{calls}", endpoint=server)
        steps.append(restored(store, "s", tmp_path / f"restored-{calls}") or 0)
    assert done
    assert steps == sorted(steps)
    assert len(set(steps)) >= 3


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_truncated_upload_never_shows(tmp_path: Path, size: int) -> None:
    """A reader that looks all the while sees no file or all of it."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * size)
    store = LocalStore(tmp_path / "store")
    child = os.fork()
    if child == 0:
        try:
            for _ in range(60):
                store.upload(source, "file")
        finally:
            os._exit(0)
    sizes = set()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if store.exists("file"):
            sizes.add(store.size("file"))
    assert sizes <= {size}
