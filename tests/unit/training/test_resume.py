"""Checkpoints of a stage: what is done about those that cannot be used, and a grace too short to
save one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.errors import raises_code
from vita_train.errors import CheckpointError
from vita_train.recipe.platform import GRACE
from vita_train.storage.base import Store
from vita_train.storage.checkpoints.attempt import begin_attempt
from vita_train.storage.checkpoints.commit import commit_checkpoint, save_rank_files
from vita_train.storage.local import LocalStore
from vita_train.storage.s3 import S3Store
from vita_train.training import resume
from vita_train.training.parallel.distributed import World
from vita_train.training.resume import Checkpoints


class Engine:
    """Saves a file and takes it back."""

    def save(self, folder: Path) -> None:
        (folder / "state.pt").write_bytes(b"weights")

    def load(self, folder: Path) -> None:
        assert (folder / "state.pt").read_bytes() == b"weights"


ENGINE: Any = Engine()


class Flaky(LocalStore):
    """Gives a wrong answer the first time that a key is read which ends so."""

    wrong: dict[str, bytes] = {}

    def read(self, key: str) -> bytes:
        for end in list(self.wrong):
            if key.endswith(end):
                return self.wrong.pop(end)
        return super().read(key)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))


def checkpoints_in(store: Store, digest: str = "digest", keep_last: int = 2) -> Checkpoints:
    return Checkpoints(
        store, "run/1.1", World(0, 1, 0, torch.device("cpu")), digest, keep_last=keep_last
    )


def two_saved(store: Store) -> None:
    checkpoints = checkpoints_in(store)
    checkpoints.begin()
    for step in (1, 2):
        checkpoints.save(ENGINE, step, {"step": step})
    checkpoints.wait()


def spoil(root: Path, pattern: str) -> None:
    found = list(root.glob(pattern))
    assert found
    for path in found:
        path.write_bytes(path.read_bytes() + b" x")


@pytest.mark.parametrize(
    "pattern",
    [
        "run/1.1/committed/*.json",
        "run/1.1/attempt-*/step-*/manifest.json",
        "run/1.1/attempt-*/step-*/state.pt",
    ],
)
def test_a_stage_whose_checkpoints_are_all_damaged_is_not_begun_anew_unasked(
    tmp_path: Path, pattern: str
) -> None:
    store = LocalStore(tmp_path / "store")
    two_saved(store)
    spoil(store.root, pattern)
    with raises_code(CheckpointError, "VT-WEIGHTS-016") as caught:
        checkpoints_in(store).restore(ENGINE)
    assert caught.value.what.count(pattern.rpartition("/")[2].removeprefix("*")) >= 2
    assert "--only 1.1 --force" in caught.value.remedy
    store.delete(store.list("run/1.1/committed/"))  # what --force does
    assert checkpoints_in(store).restore(ENGINE) is None


def test_damaged_checkpoints_of_another_stage_are_no_hindrance(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    two_saved(store)
    spoil(store.root, "run/1.1/attempt-*/step-*/manifest.json")
    assert checkpoints_in(store, "other settings").restore(ENGINE) is None


def test_one_that_is_passed_over_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(tmp_path / "store")
    two_saved(store)
    spoil(store.root, "run/1.1/attempt-*/step-00000002/manifest.json")
    checkpoints = checkpoints_in(store)
    assert checkpoints.restore(ENGINE) == {"step": 1}
    assert len(checkpoints.passed_over) == 1
    told = capsys.readouterr().err
    assert "warning: a checkpoint was passed over, training goes on from step 1: step 2:" in told
    assert "manifest.json" in told


@pytest.mark.parametrize("end", ["committed/step-00000002.json", "step-00000002/manifest.json"])
@pytest.mark.parametrize(
    "answer", [b"", b"<html><body>503</body></html>", b"{}", b"[]", b"\x00" * 40]
)
def test_what_is_read_wrong_once_is_read_again(tmp_path: Path, end: str, answer: bytes) -> None:
    store = Flaky(tmp_path / "store")
    two_saved(store)
    store.wrong = {end: answer}
    checkpoints = checkpoints_in(store)
    assert checkpoints.restore(ENGINE) == {"step": 2}
    assert not checkpoints.passed_over
    assert not store.wrong


def test_older_checkpoints_stay_until_the_new_one_can_be_read_back(tmp_path: Path) -> None:
    class Lossy(LocalStore):
        """Loses the manifest of step 4 after it has been written."""

        def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
            super().write(key, data, if_absent=if_absent)
            if "step-00000004/manifest" in key:
                (self.root / key).unlink()

    store = Lossy(tmp_path / "store")
    checkpoints = checkpoints_in(store, keep_last=1)
    checkpoints.begin()
    for step in (3, 4):
        checkpoints.save(ENGINE, step, {"step": step})
    checkpoints.wait()
    assert checkpoints_in(store).restore(ENGINE) == {"step": 3}


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    checkpoints = checkpoints_in(store, keep_last=1)
    checkpoints.begin()
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        checkpoints.save(ENGINE, step, {"step": step}, best=best)
    checkpoints.wait()
    kept = {key.split("/")[-2] for key in store.list("run/1.1/attempt-") if key.endswith(".pt")}
    assert kept == {"step-00000002", "step-00000004"}
    assert checkpoints_in(store).restore(ENGINE) == {"step": 4}


@pytest.mark.parametrize(
    ("own", "rank", "wrote", "fetched"),
    [
        (True, 2, 4, {"state-0", "state-2", "state-3"}),
        (True, 0, 4, {"state-0", "state-1"}),
        (False, 2, 4, {"state-0", "state-1", "state-2", "state-3"}),
        (True, 2, 3, {"state-0", "state-1", "state-2"}),
    ],
)
def test_a_node_fetches_the_files_of_its_own_ranks(
    own: bool,
    rank: int,
    wrote: int,
    fetched: set[str],
    s3_store: S3Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks a node; another number of ranks may need any file."""

    class Sharded:
        reads_own_files = own
        found: set[str] = set()

        def load(self, folder: Path) -> None:
            self.found = {path.name for path in folder.glob("state-*")}

    attempt = begin_attempt(s3_store, "run/1.1")
    for writer in range(wrote):
        files = {f"state-{writer}": tmp_path / f"state-{writer}"}
        if writer == 0:
            files["counters.json"] = tmp_path / "counters.json"
        for path in files.values():
            path.write_text("{}")
        save_rank_files(s3_store, attempt, 2, writer, files)
    commit_checkpoint(s3_store, attempt, 2, wrote, meta={"digest": "digest"})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(resume, "sum_over_ranks", lambda values: values)
    marker = s3_store.list("run/1.1/committed/")[0]
    monkeypatch.setattr(resume, "broadcast_json", lambda value: value or marker)
    world = World(rank, 4, rank % 2, torch.device("cpu"))
    checkpoints = Checkpoints(s3_store, "run/1.1", world, "digest", keep_last=2)
    monkeypatch.setattr(checkpoints, "_check_not_lost", lambda found: None)
    engine: Any = Sharded()
    assert checkpoints.restore(engine) == {}
    assert engine.found == fetched


@pytest.mark.parametrize(("grace", "warnings"), [("0.001", 1), ("3600", 0), ("", 0)])
def test_a_grace_too_short_for_a_save_is_told_once(
    grace: str,
    warnings: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if grace:
        monkeypatch.setenv(GRACE, grace)
    checkpoints = checkpoints_in(LocalStore(tmp_path / "store"))
    checkpoints.begin()
    for step in (1, 2, 3):
        checkpoints.save(ENGINE, step, {})
    checkpoints.wait()
    assert capsys.readouterr().err.count("raise platform.pod.grace") == warnings
