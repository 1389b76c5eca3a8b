"""Checkpoints of a stage in a pod: whoever would be killed before the state is safe is told in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vita_train.recipe.platform import GRACE
from vita_train.storage.local import LocalStore
from vita_train.training.parallel.distributed import World
from vita_train.training.resume import Checkpoints


class Engine:
    """Saves a file."""

    def save(self, folder: Path) -> None:
        (folder / "state.pt").write_bytes(b"weights")


@pytest.mark.parametrize(("grace", "warnings"), [("0.001", 1), ("3600", 0), ("", 0)])
def test_a_grace_too_short_for_a_save_is_told_once(grace: str, warnings: int, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    if grace:
        monkeypatch.setenv(GRACE, grace)
    engine: Any = Engine()
    checkpoints = Checkpoints(LocalStore(tmp_path / "store"), "run/1.1", World(0, 1, 0, torch.device("cpu")), "digest",
                              keep_last=2)
    checkpoints.begin()
    for step in (1, 2, 3):
        checkpoints.save(engine, step, {})
    checkpoints.wait()
    assert capsys.readouterr().err.count("raise platform.pod.grace") == warnings
