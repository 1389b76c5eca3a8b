"""Run the compiled pipeline on this machine and say how it went."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from vita_train.errors import (
    CLASS_OF_EXIT,
    StoppedError,
    UserError,
    VitaError,
)
from vita_train.launch.local import STOP_GRACE
from vita_train.launch.outcome import tail
from vita_train.launch.process import die_with_parent, on_stop, stop_group
from vita_train.pipeline.local.console import Ladder
from vita_train.pipeline.local.state import RunState, StepState
from vita_train.pipeline.step_commit import STEPS_LOG
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.selection import Selection
from vita_train.runs.run import Run
from vita_train.storage.scratch import sweep_private


def run_pipeline(run: Run, selection: Selection, console: Console) -> RunState:
    """Run the recipe's compiled pipeline under kfp.local in a child process and show it until it
    ends.

    A step that fails stops what depends on it and nothing else. The child's output goes to
    ``<run>/logs/pipeline.log``. Whatever ends this process ends the child and its jobs.

    Raises:
        VitaError: a step failed, with its reason, or the run was stopped.
    """
    logs = run.logs_dir()
    logs.mkdir(parents=True, exist_ok=True)
    steps_log, pipeline_log = logs / "steps.jsonl", logs / "pipeline.log"
    with _sole_owner(logs / "run.lock", run.name):
        sweep_private(run.dir)
        steps_log.unlink(missing_ok=True)
        run.write_recipe()
        command = _command(run, selection)
        state = RunState(run, selection, steps_log)
        with pipeline_log.open("wb") as output:
            code = _follow(
                command, {**os.environ, STEPS_LOG: str(steps_log)}, output.fileno(), state, console
            )
    if failed := state.failed():
        raise _step_error(failed, run.dir, run.logs_dir(failed.step))
    if code != 0:
        raise VitaError(
            f"the pipeline ended with exit code {code}; its log ends\n{tail(pipeline_log)}",
            code="VT-FAIL-006",
            where=str(pipeline_log),
        )
    shutil.rmtree(run.dir / "scratch", ignore_errors=True)
    return state


def _command(run: Run, selection: Selection) -> list[str]:
    steps = selection.steps(run.recipe)
    scratch = run.dir / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    resolved = scratch / "recipe.yaml"
    resolved.write_text(dump_recipe(run.recipe), encoding="utf-8")
    arguments = scratch / "arguments.json"
    arguments.write_text(
        json.dumps(
            {
                "recipe": str(resolved),
                "run": run.name,
                "steps": ",".join(steps) if selection.chosen is not None else "",
                "force": selection.force,
            }
        ),
        encoding="utf-8",
    )
    # Steps that were not asked for are left out: each would be a process that finds nothing to do.
    return [
        sys.executable,
        "-m",
        "vita_train.pipeline.local.execute",
        str(resolved),
        str(arguments),
        ",".join(steps),
        str(scratch),
    ]


def _follow(
    command: list[str], environment: dict[str, str], output: int, state: RunState, console: Console
) -> int:
    """Show the run until its process ends; a signal ends it and is raised as StoppedError."""
    stopped: list[int] = []
    with on_stop(stopped.append):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            with Ladder(state, console) as ladder:
                while process.poll() is None and not stopped:
                    ladder.update()
                    time.sleep(0.25)
        finally:
            # The launcher of a stage gets its own grace within this one.
            stop_group(process, grace=STOP_GRACE + 5)
    if stopped:
        raise StoppedError(
            "stopped as asked; what was committed is kept",
            code="VT-STOP-005",
            remedy="run the same command to continue",
        )
    return process.returncode


def _step_error(failed: StepState, home: Path, logs: Path) -> VitaError:
    """Return a step's error with the step named, as the class that gives its exit code."""
    error = failed.error
    code = int(error.get("code", 1))
    log, page = (
        logs if any(logs.glob("*.log")) else home / "logs" / "pipeline.log",
        home / "report" / "report.html",
    )
    parts = (
        str(error.get("remedy") or ""),
        f"logs: {log}",
        f"report: {page}" if page.exists() else "",
    )
    remedy = "; ".join(part for part in parts if part)
    return CLASS_OF_EXIT.get(code, VitaError)(
        f"{failed.step} ({failed.title}) failed: {error.get('what', 'no reason given')}",
        code=str(error.get("error") or ""),
        where=str(error.get("where") or ""),
        remedy=remedy,
    )


@contextmanager
def _sole_owner(path: Path, run: str) -> Iterator[None]:
    """Hold a run's lock, so that two processes never work on one run.

    Raises:
        UserError: another process holds it.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"the run {run!r} is going on in another process",
                code="VT-USE-062",
                where=str(path),
                remedy="wait for it, stop it, or give another --run",
            ) from None
        yield
