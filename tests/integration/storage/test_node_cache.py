"""What a node keeps of what its processes fetched, however they ended."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from tests.helpers.checkpoints import STAGE, content, files_below, save
from tests.helpers.s3_faults import FaultProxy
from vita_train.storage.cache import fetch_file
from vita_train.storage.checkpoints.attempt import begin_attempt
from vita_train.storage.checkpoints.commit import (
    commit_checkpoint,
    latest_commit,
    restore,
    save_rank_files,
)
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.s3 import S3Store
from vita_train.training.parallel.distributed import World
from vita_train.training.resume import Checkpoints


def killed_at_second_part(proxy: FaultProxy, name: str, work: Callable[[], object]) -> None:
    """Fork a process for `work` and kill it when it asks for the second part of a file."""
    kill: list[int] = []

    def strike() -> None:
        if sum(name in request and request.startswith("GET") for request in proxy.requests) == 2:
            os.kill(kill[0], signal.SIGKILL)

    proxy.spoil("late", f"GET .*/{name}", times=2, before=strike)
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    kill.append(child)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert any(".vita-tmp-" in file for file in files_below(cache_dir())), (
        "it died with a half file"
    )


def test_the_next_fetch_removes_what_a_killed_one_left(
    direct: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(content(0, "large"))
    ref = direct.upload(path, "final/large.bin")
    killed_at_second_part(proxy, "large.bin", lambda: fetch_file(ref, endpoint=proxy.endpoint))
    assert fetch_file(ref, endpoint=proxy.endpoint).read_bytes() == content(0, "large")
    assert [Path(file).name for file in files_below(cache_dir())] == ["large.bin"]


def test_the_next_restore_removes_what_a_killed_one_left(
    direct: S3Store, store: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    save(direct, begin_attempt(direct, STAGE), 10, tmp_path / "work")
    commit = latest_commit(direct, STAGE)
    assert commit is not None
    folder = cache_dir() / "restore"
    killed_at_second_part(proxy, "large.bin", lambda: restore(store, commit, folder))
    restore(direct, commit, folder)
    assert files_below(folder) == ["optim-1.bin", "weights/large.bin"]


def test_ranks_of_a_node_fetch_a_checkpoint_once(
    direct: S3Store, store: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    save(direct, begin_attempt(direct, STAGE), 10, tmp_path / "work")
    commit = latest_commit(direct, STAGE)
    assert commit is not None
    ranks = [
        threading.Thread(target=restore, args=(store, commit, tmp_path / "back")) for _ in range(3)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert sum(request.endswith("/optim-1.bin") for request in proxy.requests) == 1


class Engine:
    """Remembers where it was told to load from."""

    def __init__(self) -> None:
        self.loaded: list[Path] = []

    def load(self, directory: Path) -> None:
        self.loaded.append(directory)


def test_a_node_keeps_one_restored_checkpoint_of_a_stage(direct: S3Store, tmp_path: Path) -> None:
    attempt = begin_attempt(direct, STAGE)
    engine = Engine()
    for step in (10, 20):
        path = tmp_path / "counters.json"
        path.write_text(json.dumps({"step": step}))
        save_rank_files(direct, attempt, step, 0, {"counters.json": path})
        commit_checkpoint(direct, attempt, step, 1, meta={"digest": "d", "step": step})
        checkpoints = Checkpoints(
            direct, STAGE, World(0, 1, 0, torch.device("cpu")), "d", keep_last=2
        )
        assert checkpoints.restore(engine) == {"step": step}  # type: ignore[arg-type]
    assert engine.loaded[1].is_dir()
    assert not engine.loaded[0].exists()
