"""torchrun as a child process: started, stopped when asked to, and its end explained."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vita_train.errors import StoppedError, VitaError
from vita_train.launch.outcome import explain, forget_outcomes
from vita_train.launch.process import die_with_parent, has_gpu, on_stop, stop_group

#: Name of torchrun's own log beside the ranks'.
LOG = "launcher.log"


def rank_entry(logs: Path, recipe: str, stage: str, run: str) -> list[str]:
    """Return what torchrun starts for each rank: the stage, its output in ``logs/rank-<r>.log``."""
    # No options: torchrun would take them for its own.
    return ["-m", "vita_train.launch.rank", str(logs), recipe, stage, run]


def environment(threads: int) -> dict[str, str]:
    """Return the environment of the ranks: this process's, one pool of threads each."""
    result = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    if not has_gpu():
        result["DS_ACCELERATOR"] = "cpu"
    return result


def run_torchrun(command: Sequence[str], logs: Path, env: Mapping[str, str], *, attempt: int = 0, grace: float,
                 beat: Callable[[], None] = lambda: None) -> VitaError | None:
    """Run torchrun to its end; None if it ended well, else why it did not.

    Args:
        command: torchrun with its arguments.
        logs: directory of the ranks' logs and error files; torchrun's own output is added to its ``launcher.log``.
        env: environment of the processes.
        attempt: how often it was started before, for the log.
        grace: seconds the ranks get to save their state when SIGTERM or SIGINT comes.
        beat: called a few times a second while it runs.
    """
    forget_outcomes(logs)
    log = logs / LOG
    stopped: list[int] = []
    with log.open("ab") as output:
        start = output.tell()
        output.write(f"--- attempt {attempt + 1}: {' '.join(command)}\n".encode())
        output.flush()
        with on_stop(stopped.append):  # before the start, so that no signal falls between
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                       env=dict(env), start_new_session=True, preexec_fn=die_with_parent)
            try:
                code = _wait(process, stopped, beat)
            finally:
                stop_group(process, grace=grace)
    if stopped:
        return StoppedError("stopped as asked; the stage saved its state", where=str(logs),
                            remedy="run the same command to go on")
    if code == 0:
        return None
    return explain(logs, log.read_bytes()[start:].decode(errors="replace"))


def _wait(process: subprocess.Popen[bytes], stopped: list[int], beat: Callable[[], None]) -> int | None:
    """Wait until the job ends by itself (its exit code) or a signal came (None)."""
    while not stopped:
        beat()
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    return None
