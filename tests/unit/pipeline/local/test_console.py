"""What the console makes of the files that steps write."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from vita_train.console import clock
from vita_train.pipeline.local.console import Ladder, ladder_table, plain_line
from vita_train.pipeline.local.state import RunState
from vita_train.recipe.load import load_recipe
from vita_train.recipe.selection import Selection
from vita_train.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunState, Path]:
    recipe = load_recipe("smoke", [f"storage.root={tmp_path}"])
    log = tmp_path / "r" / "logs" / "steps.jsonl"
    log.parent.mkdir(parents=True)
    return RunState(Run(recipe, "r"), Selection.parse(recipe, until="2.2"), log), log


def _event(log: Path, step: str, state: str, **more: object) -> None:
    with log.open("a") as file:
        file.write(json.dumps({"time": 100.0, "step": step, "state": state, **more}) + "\n")


def _progress(log: Path, stage: str, **values: object) -> None:
    path = log.parents[1] / stage / "progress.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def test_running_stage_shows_steps_loss_measure_and_time_left(run: tuple[RunState, Path]) -> None:
    state, log = run
    _event(log, "1.1", "running")
    _progress(
        log,
        "1.1",
        state="running",
        step=30,
        steps=120,
        loss=1.5,
        measure={"dev.loss": 2.25},
        eta_s=75,
    )
    state.refresh()
    line = plain_line(state.steps["1.1"])
    for part in ("1.1", "vision alignment", "30/120", "loss 1.500", "dev.loss 2.250", "1:15 left"):
        assert part in line
    assert state.steps["1.1"].share == 0.25


def test_each_change_is_told_once_and_an_unfinished_line_waits(run: tuple[RunState, Path]) -> None:
    state, log = run
    _event(log, "data_fetch", "running")
    with log.open("a") as file:
        file.write('{"time": 101.0, "step": "data_fetch", "sta')
    assert [step.state for step in state.refresh()] == ["running"]
    assert state.refresh() == []
    with log.open("a") as file:
        file.write('te": "done"}\n')
    assert [step.state for step in state.refresh()] == ["done"]
    assert state.steps["data_fetch"].seconds == 1.0


def test_failed_step_is_found_with_its_error(run: tuple[RunState, Path]) -> None:
    state, log = run
    _event(log, "prepare", "failed", error={"code": 2, "what": "empty"})
    state.refresh()
    failed = state.failed()
    assert failed is not None
    assert (failed.step, failed.error["what"]) == ("prepare", "empty")


def test_plain_output_has_one_line_a_change_and_no_control_codes(
    run: tuple[RunState, Path],
) -> None:
    state, log = run
    output = io.StringIO()
    with Ladder(state, Console(file=output, width=80)) as ladder:
        _event(log, "data_fetch", "running")
        ladder.update()
        ladder.update()
        _event(log, "data_fetch", "done")
    lines = output.getvalue().splitlines()
    assert [line.split()[-2] for line in lines] == ["running", "done"]
    assert "\x1b" not in output.getvalue()


def test_terminal_shows_every_step_of_the_recipe(run: tuple[RunState, Path]) -> None:
    state, log = run
    _event(log, "data_fetch", "reused")
    _event(log, "prepare", "failed", error={"code": 2, "what": "[bold]not markup"})
    state.refresh()
    output = io.StringIO()
    Console(file=output, width=120).print(ladder_table(state.steps.values()))
    text = output.getvalue()
    assert "committed before" in text
    assert len(text.splitlines()) == len(state.steps)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75.4, "1:15"), (3600, "1:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
