"""torchrun as a child process: started, stopped when asked to, and its end explained."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

from vita_train.console import say
from vita_train.errors import StoppedError, VitaError
from vita_train.launch.outcome import explain, forget_outcomes
from vita_train.launch.process import die_with_parent, has_gpu, on_stop, stop_group

#: Name of torchrun's own log beside the ranks'.
LOG = "launcher.log"
#: Lines of a job's own output that are kept to explain its end. The ranks' output is in their logs.
_MOST_LINES = 5000
#: Seconds to wait for the last of them.
_LAST_LINES_S = 10.0


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


def run_torchrun(
    command: Sequence[str],
    logs: Path,
    env: Mapping[str, str],
    *,
    attempt: int = 0,
    grace: float,
    beat: Callable[[], None] = lambda: None,
) -> VitaError | None:
    """Run torchrun to its end; None if it ended well, else why it did not.

    Args:
        command: torchrun with its arguments.
        logs: directory of the ranks' logs and error files; torchrun's own output is added to its
            ``launcher.log``.
        env: environment of the processes.
        attempt: how often it was started before, for the log.
        grace: seconds the ranks get to save their state when SIGTERM or SIGINT comes.
        beat: called a few times a second while it runs.
    """
    forget_outcomes(logs)
    log = logs / LOG
    stopped: list[int] = []
    with _Output(log) as output:
        output.add(f"--- attempt {attempt + 1}: {' '.join(command)}\n".encode())
        with on_stop(stopped.append):  # before the start, so that no signal falls between
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                # Its own group, so that all of it can be stopped, and Ctrl-C reaches the launcher
                # alone
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
            output.follow(process)
            try:
                code = _wait(process, stopped, beat)
            finally:
                # Also after a good end: whatever a rank has started may be left
                stop_group(process, grace=grace)
                output.finish()
    if stopped:
        return StoppedError(
            "stopped as asked; the stage saved its state",
            code="VT-STOP-004",
            where=str(logs),
            remedy="run the same command to continue",
        )
    if code == 0:
        return None
    return explain(logs, output.text())


class _Output:
    """What a job prints: kept in memory and added to a log, and its ranks' warnings passed on to
    the console.

    It comes through a pipe, so that it is known even where the log's disk takes no more.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file: BinaryIO | None = None
        self._lines: deque[bytes] = deque(maxlen=_MOST_LINES)
        self._reader: threading.Thread | None = None

    def __enter__(self) -> _Output:
        with suppress(OSError):
            self._file = self._log.open("ab")
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def add(self, line: bytes) -> None:
        """Take one line."""
        self._lines.append(line)
        if self._file is not None:
            with suppress(OSError):
                self._file.write(line)
                self._file.flush()

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Take all that a process prints, in a thread."""
        assert process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(process.stdout,), name="job-output", daemon=True
        )
        self._reader.start()

    def finish(self) -> None:
        """Wait for the last lines; a process that has left the job's group may keep the pipe
        open."""
        if self._reader is not None:
            self._reader.join(timeout=_LAST_LINES_S)

    def text(self) -> str:
        """Return what was printed, or the end of it where that was very much."""
        return b"".join(self._lines).decode(errors="replace")

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.add(line)
            if line.startswith(b"warning: "):
                say(line.decode(errors="replace").rstrip())


def _wait(
    process: subprocess.Popen[bytes], stopped: list[int], beat: Callable[[], None]
) -> int | None:
    """Wait until the job ends by itself (its exit code) or a signal came (None)."""
    while not stopped:
        beat()
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    return None
