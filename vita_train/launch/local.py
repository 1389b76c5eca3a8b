"""One stage as a torchrun job on this machine: started, watched, explained, and believed only after its commit is read.

The job's processes get one thread each (``launch.threads``), write ``<stage>/logs/rank-<r>.log``, and end with the
launcher whatever happens to it. A retryable end is started again up to ``launch.restarts`` times; the stage itself
goes on from its last checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vita_train.console import say
from vita_train.errors import EXIT_RETRYABLE, UserError
from vita_train.launch.nodes import Nodes, network_environment, obsolete_variables
from vita_train.launch.torchrun import environment, rank_entry, run_torchrun
from vita_train.launch.verify import committed
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.manifest import Manifest
from vita_train.runs.paths import logs_dir, run_dir

#: Seconds a stage may take to save its state when it is asked to stop.
STOP_GRACE = 60.0


def launch_local(recipe: Recipe, stage: str, run: str, *, nodes: Nodes | None = None, network: str = "",
                 entry: Sequence[str] | None = None) -> Manifest:
    """Run a stage to its end on this machine and return the manifest it committed; arguments as for `run_ranks`.

    Raises:
        VitaError: as `run_ranks` raises.
    """
    run_ranks(recipe, stage, run, nodes=nodes, network=network, entry=entry)
    return committed(recipe, run, stage, logs=str(logs_dir(recipe, run, stage)))


def run_ranks(recipe: Recipe, stage: str, run: str, *, nodes: Nodes | None = None, network: str = "",
              entry: Sequence[str] | None = None) -> None:
    """Run this machine's ranks of a stage to their end. Rank 0, on the first machine, commits the stage.

    Args:
        recipe: the run's recipe; it is written to ``<stage>/recipe.yaml`` and the job reads that file.
        stage: canonical stage id.
        run: the run's name.
        nodes: this machine among several that are started by hand; all of them use the same store.
        network: preset of variables for their network, see `vita_train.launch.nodes`.
        entry: what torchrun starts instead of the stage (a script and its arguments).

    Raises:
        UserError: a rank refused the recipe or the data; its message. Or the recipe wants other machines than these.
        VitaError: the job crashed; the message names the log and quotes its end.
        PeerLostError: retryable, and every restart that the recipe allows was used.
        StoppedError: SIGTERM or SIGINT came; the job saved its state and has ended.
    """
    nodes = nodes or Nodes()
    if recipe.launch.nodes != nodes.count:
        raise UserError(f"the recipe wants {recipe.launch.nodes} machines, and this is one of {nodes.count}",
                        where="launch.nodes",
                        remedy="run it on a cluster; start it on each machine with vita-train launch --nnodes "
                               f"{recipe.launch.nodes}; or set launch.nodes={nodes.count}")
    logs = logs_dir(recipe, run, stage)
    logs.mkdir(parents=True, exist_ok=True)
    path = run_dir(recipe, run) / stage / (f"recipe-{nodes.rank}.yaml" if nodes.rank else "recipe.yaml")
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    for warning in obsolete_variables():
        say(f"warning: {warning}")
    variables = {**environment(recipe.launch.threads), **network_environment(network)}
    command = [*_torchrun(recipe.launch.nproc, nodes), *(entry or rank_entry(logs, str(path), stage, run))]
    for attempt in range(recipe.launch.restarts + 1):
        failure = run_torchrun(command, logs, variables, attempt=attempt, grace=STOP_GRACE)
        if failure is None:
            return
        if failure.exit_code != EXIT_RETRYABLE or attempt == recipe.launch.restarts:
            raise failure


def _torchrun(nproc: int, nodes: Nodes) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc), "--max-restarts", "0",
            *nodes.torchrun]
