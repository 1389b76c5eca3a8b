"""One stage as a torchrun job on this machine: started, watched, explained, and believed only after its commit is read.

The job's processes get one thread each (``launch.threads``), write ``<stage>/logs/rank-<r>.log``, and end with the
launcher whatever happens to it. A retryable end is started again up to ``launch.restarts`` times; the stage itself
goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vita_train.errors import EXIT_RETRYABLE, StoppedError, VitaError
from vita_train.launch.outcome import explain, forget_outcomes
from vita_train.launch.process import die_with_parent, has_gpu, on_stop, stop_group
from vita_train.manifest import Manifest
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import Recipe
from vita_train.storage.final import read_final
from vita_train.storage.run_paths import logs_dir, run_dir, store_of

#: Seconds a stage may take to save its state when it is asked to stop.
STOP_GRACE = 60.0


def launch_stage(recipe: Recipe, stage: str, run: str, *, entry: Sequence[str] | None = None) -> Manifest:
    """Run a stage to its end and return the manifest it committed.

    Args:
        recipe: the run's recipe; it is written to ``<stage>/recipe.yaml`` and the job reads that file.
        stage: canonical stage id.
        run: the run's name.
        entry: what torchrun starts instead of ``vita-train stage`` (a script and its arguments).

    Raises:
        UserError: a rank refused the recipe or the data; its message.
        VitaError: the job crashed; the message names the log and quotes its end.
        PeerLostError: retryable, and every restart that the recipe allows was used.
        StoppedError: SIGTERM or SIGINT came; the job saved its state and has ended.
    """
    logs = logs_dir(recipe, run, stage)
    logs.mkdir(parents=True, exist_ok=True)
    command = [*_torchrun(recipe.launch.nproc), *(entry or _stage_entry(recipe, stage, run, logs))]
    for attempt in range(recipe.launch.restarts + 1):
        failure = _attempt(command, recipe, logs, attempt)
        if failure is None:
            break
        if failure.exit_code != EXIT_RETRYABLE or attempt == recipe.launch.restarts:
            raise failure
    store = store_of(recipe)
    manifest = read_final(store, f"{run}/{stage}")
    if manifest is None:
        raise VitaError("the job ended as if it were done, but committed nothing",
                        where=store.uri_of(f"{run}/{stage}/final.json"), remedy=f"its logs are in {logs}")
    return manifest


def _torchrun(nproc: int) -> list[str]:
    # Rendezvous on port 0: the kernel picks a free one, and the ranks share its store, so no port can be in use.
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc), "--max-restarts", "0",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]


def _stage_entry(recipe: Recipe, stage: str, run: str, logs: Path) -> list[str]:
    path = run_dir(recipe, run) / stage / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    # No options: torchrun would take them for its own.
    return ["-m", "vita_train.launch.rank", str(logs), str(path), stage, run]


def _environment(threads: int) -> dict[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    if not has_gpu():
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


def _attempt(command: Sequence[str], recipe: Recipe, logs: Path, attempt: int) -> VitaError | None:
    """Run the job once; None if it ended well, else why it did not."""
    forget_outcomes(logs)
    log = logs / "launcher.log"
    stopped: list[int] = []
    with log.open("ab") as output:
        start = output.tell()
        output.write(f"--- attempt {attempt + 1}: {' '.join(command)}\n".encode())
        output.flush()
        with on_stop(stopped.append):  # before the start, so that no signal falls between
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                       env=_environment(recipe.launch.threads), start_new_session=True,
                                       preexec_fn=die_with_parent)
            try:
                code = _wait(process, stopped)
            finally:
                stop_group(process, grace=STOP_GRACE)
    if stopped:
        return StoppedError("stopped as asked; the stage saved its state", where=str(logs),
                            remedy="run the same command to go on")
    if code == 0:
        return None
    return explain(logs, log.read_bytes()[start:].decode(errors="replace"))


def _wait(process: subprocess.Popen[bytes], stopped: list[int]) -> int | None:
    """Wait until the job ends by itself (its exit code) or a signal came (None)."""
    while not stopped:
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    return None
