"""Jobs as processes of this machine, with torchrun.

The processes get ``launch.threads`` threads each, write ``<stage>/logs/rank-<r>.log``, and end with
the launcher whatever happens to it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vita_train.console import say
from vita_train.errors import UserError
from vita_train.launch.backend import Outcome, StageJob
from vita_train.launch.memory import ran_out, with_estimate
from vita_train.launch.nodes import Nodes, network_environment, obsolete_variables
from vita_train.launch.torchrun import environment, rank_entry, run_torchrun
from vita_train.recipe.load import dump_recipe
from vita_train.runs.run import Run

#: Seconds a stage may take to save its state when it is asked to stop.
STOP_GRACE = 60.0


class LocalBackend:
    """This machine's ranks of a job. Rank 0, on the first machine, commits the stage.

    Args:
        nodes: this machine among several that are started by hand; all of them use the same store.
        network: preset of variables for their network, see `vita_train.launch.nodes`.
        entry: what torchrun starts instead of the stage (a script and its arguments).
    """

    def __init__(
        self, nodes: Nodes | None = None, network: str = "", entry: Sequence[str] = ()
    ) -> None:
        self._nodes, self._network, self._entry = nodes or Nodes(), network, tuple(entry)

    def check(self, run: Run) -> str:
        """Say so, or that the recipe wants other machines than these.

        Raises:
            UserError: it wants more or fewer.
        """
        wanted = run.recipe.launch.nodes
        if wanted != self._nodes.count:
            raise UserError(
                f"the recipe wants {wanted} machines, and this is one of {self._nodes.count}",
                code="VT-USE-055",
                where="launch.nodes",
                remedy="run it on a cluster; start it on each machine with vita-train launch "
                "--nnodes "
                f"{wanted}; or set launch.nodes={self._nodes.count}",
            )
        return "processes of this machine"

    def run(self, job: StageJob) -> Outcome:
        """Run this machine's ranks to their end.

        Raises:
            UserError: the recipe wants other machines than these.
        """
        self.check(job.run)
        logs = job.run.logs_dir(job.stage)
        logs.mkdir(parents=True, exist_ok=True)
        rank = self._nodes.rank
        # Machines by hand may share the folder: each writes a file of its own, and ranks compare
        # what they read
        path = job.run.dir / job.stage / (f"recipe-{rank}.yaml" if rank else "recipe.yaml")
        path.write_text(dump_recipe(job.run.recipe), encoding="utf-8")
        for warning in obsolete_variables():
            say(f"warning: {warning}")
        variables = {
            **environment(job.resources.threads),
            **job.environment,
            **network_environment(self._network),
        }
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(job.resources.nproc),
            # torchrun's restarts know nothing of exit codes: trying again is the launcher's to
            # decide
            "--max-restarts",
            "0",
            *self._nodes.torchrun,
            *(self._entry or rank_entry(logs, str(path), job.stage, job.run.name)),
        ]
        failure = run_torchrun(command, logs, variables, attempt=job.attempt, grace=STOP_GRACE)
        outcome = Outcome(failure, logs=str(logs))
        last = not outcome.may_retry or job.attempt >= job.run.recipe.launch.restarts
        if failure is not None and last and ran_out(failure, logs):
            return Outcome(with_estimate(failure, path, job.stage), logs=str(logs))
        return outcome
