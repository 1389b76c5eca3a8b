"""What a stage writes while it runs."""

from __future__ import annotations

import json
from pathlib import Path

from vita_train.storage.factory import open_store
from vita_train.training.observability.run_log import RunLog


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


def test_silent_on_other_ranks(tmp_path: Path) -> None:
    run_log = RunLog(None, 4)
    run_log.event(1, {"loss": 2.0})
    run_log.progress(step=1)
    run_log.rewind(0)
    run_log.close()
    assert list(tmp_path.iterdir()) == []
