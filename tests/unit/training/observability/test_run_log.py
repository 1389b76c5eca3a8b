"""What a stage writes while it runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vita_train.recipe.schema import TrackingSpec
from vita_train.storage.factory import open_store
from vita_train.training.observability.run_log import RunLog, progress_line


def steps_of(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_rewind_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    run_log = RunLog(tmp_path, 10)
    for step in range(1, 6):
        run_log.event(step, {"loss": 1 / step})
        run_log.samples(step, [f"a/{step}"], step)
    run_log.close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "st')
    again = RunLog(tmp_path, 10)
    again.rewind(3)
    again.event(4, {"loss": 0.5})
    again.close()
    assert steps_of(tmp_path / "events.jsonl") == [1, 2, 3, 4]
    assert steps_of(tmp_path / "samples.jsonl") == [1, 2, 3]


def test_files_are_published_to_a_remote_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    run_log = RunLog(tmp_path / "here", 4, remote=(store, "run/1.1"))
    run_log.event(1, {"loss": 2.0})
    run_log.progress(step=1, loss=2.0)
    run_log.close()
    assert json.loads(store.read("run/1.1/progress.json")) == {
        "state": "running",
        "step": 1,
        "steps": 4,
        "loss": 2.0,
    }
    assert store.exists("run/1.1/events.jsonl")


def test_curves_for_tensorboard_are_published_with_every_save(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    run_log = RunLog(tmp_path / "here", 4, remote=(store, "run/1.1"))
    run_log.track(TrackingSpec(tensorboard=True), "run/1.1")
    run_log.event(1, {"loss": 2.0})
    run_log.publish()
    [key] = store.list("run/1.1/tensorboard/")
    before = len(store.read(key))
    run_log.event(2, {"loss": 1.0})
    run_log.publish()
    assert len(store.read(key)) > before
    run_log.close()


def test_the_log_says_how_far_a_stage_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 40.0, 40.0, 50.0])
    monkeypatch.setattr(
        "vita_train.training.observability.run_log.time.monotonic", lambda: next(clock)
    )
    run_log = RunLog(tmp_path, 200_000)
    run_log.event(2380, {"loss": 0.579, "tokens_per_s": 41_200.0})
    for _ in range(3):  # after 10, 40 and 50 s: one line in 30 s
        run_log.progress(step=2380, loss=0.579, eta_s=57_730.0)
    assert capsys.readouterr().err == "step 2380/200000 · loss 0.579 · 41 k tok/s · 16:02:10 left\n"
    run_log.progress(measure={"dev.loss": 0.5})
    assert capsys.readouterr().err == "", "a measure is no step"


def test_a_line_leaves_out_what_is_not_known() -> None:
    assert progress_line({"step": 1, "steps": 4, "loss": math.nan}, math.nan) == "step 1/4"
    assert progress_line({"step": 1, "steps": 4}, 950.4) == "step 1/4 · 950 tok/s"


def test_silent_on_other_ranks(tmp_path: Path) -> None:
    run_log = RunLog(None, 4)
    run_log.event(1, {"loss": 2.0})
    run_log.progress(step=1)
    run_log.rewind(0)
    run_log.close()
    assert list(tmp_path.iterdir()) == []
