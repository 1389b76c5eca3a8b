"""One stage as a torchrun job on this machine: started, watched, explained, and believed only after its commit is read.

The job's processes get one thread each (``launch.threads``), write ``<stage>/logs/rank-<r>.log``, and end with the
launcher whatever happens to it. A retryable end is started again up to ``launch.restarts`` times; the stage itself
goes on from its last checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vita_train.errors import EXIT_RETRYABLE, UserError
from vita_train.launch.torchrun import environment, rank_entry, run_torchrun
from vita_train.launch.verify import committed
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.manifest import Manifest
from vita_train.runs.paths import logs_dir, run_dir

#: Seconds a stage may take to save its state when it is asked to stop.
STOP_GRACE = 60.0


def launch_local(recipe: Recipe, stage: str, run: str, *, entry: Sequence[str] | None = None) -> Manifest:
    """Run a stage to its end on this machine and return the manifest it committed.

    Args:
        recipe: the run's recipe; it is written to ``<stage>/recipe.yaml`` and the job reads that file.
        stage: canonical stage id.
        run: the run's name.
        entry: what torchrun starts instead of the stage (a script and its arguments).

    Raises:
        UserError: a rank refused the recipe or the data; its message. Or the recipe wants more than one machine.
        VitaError: the job crashed; the message names the log and quotes its end.
        PeerLostError: retryable, and every restart that the recipe allows was used.
        StoppedError: SIGTERM or SIGINT came; the job saved its state and has ended.
    """
    if recipe.launch.nodes > 1:
        raise UserError(f"the recipe wants {recipe.launch.nodes} machines, and this is one", where="launch.nodes",
                        remedy="run it on a cluster, or set launch.nodes=1")
    logs = logs_dir(recipe, run, stage)
    logs.mkdir(parents=True, exist_ok=True)
    path = run_dir(recipe, run) / stage / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    command = [*_torchrun(recipe.launch.nproc), *(entry or rank_entry(logs, str(path), stage, run))]
    for attempt in range(recipe.launch.restarts + 1):
        failure = run_torchrun(command, logs, environment(recipe.launch.threads), attempt=attempt, grace=STOP_GRACE)
        if failure is None:
            break
        if failure.exit_code != EXIT_RETRYABLE or attempt == recipe.launch.restarts:
            raise failure
    return committed(recipe, run, stage, logs=str(logs))


def _torchrun(nproc: int) -> list[str]:
    # Rendezvous on port 0: the kernel picks a free one, and the ranks share its store, so no port can be in use.
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc), "--max-restarts", "0",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
