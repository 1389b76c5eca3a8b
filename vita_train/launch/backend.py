"""What a job backend is: it runs a stage's job to its end, once. All else about a job is the same
for every backend.

A backend starts ``resources.nodes`` copies of ``command``, one a node, and waits. Each copy starts
that node's ranks with torchrun, which reads from ``PET_*`` variables which node it is and where the
ranks meet (`node_variables`). The command prints the ranks' logs and ends with an exit code of
`vita_train.errors`; the file that the variable ``VITA_TRAIN_TERMINATION_LOG`` names then says why
(`vita_train.launch.outcome.node_failure`). Weights and checkpoints lie in the run's store;
`vita_train.launch.stage` tries again what may be tried again, and believes a success only once it
has read the stage's commit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from vita_train.errors import EXIT_RETRYABLE, VitaError
from vita_train.launch.worker import ENDPOINT
from vita_train.recipe.load import dump_recipe
from vita_train.runs.manifest import STEP_DIGEST_VARIABLE
from vita_train.runs.run import RECIPE, Run


@dataclass(frozen=True)
class Resources:
    """What a job takes."""

    nodes: int
    nproc: int
    """Ranks on each node, with a GPU each where there are any."""
    threads: int
    """CPU threads of a rank."""


@dataclass(frozen=True)
class StageJob:
    """One stage as a job."""

    run: Run
    stage: str
    digest: str
    """Of all that goes into the stage: a job that an earlier launcher left is the same one only if
    this is the same."""
    command: tuple[str, ...]
    """What every node runs; it begins with ``python``."""
    resources: Resources
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the command, on top of those that the node has."""
    attempt: int = 0
    """How often the job was started before by this launcher."""
    task: Any = None
    """KFP's ``TaskConfig`` of the task that launches the stage: what was set there for the pods of
    the job. A backend that has no pods passes it over."""

    @property
    def settings(self) -> Any:
        """The recipe's settings of backends: each reads the field of its own name."""
        return self.run.recipe.launch.settings


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a job ended."""

    failure: VitaError | None = None
    """Why it failed; None when it ended well."""
    logs: str = ""
    """Where a reader finds what it printed."""
    is_final: bool = False
    """Whether the backend has started it again itself as often as the recipe allows."""

    @property
    def may_retry(self) -> bool:
        """Whether starting it again may help."""
        return (
            self.failure is not None
            and self.failure.exit_code == EXIT_RETRYABLE
            and not self.is_final
        )


class JobBackend(Protocol):
    """A place where jobs run."""

    def check(self, run: Run) -> str:
        """Say in a few words where the jobs of a run go. Called before anything is trained.

        Raises:
            UserError: the backend could not run them.
        """

    def run(self, job: StageJob) -> Outcome:
        """Run a job until it is over, telling of its progress with `vita_train.console.say`.

        A launcher may be started again while its job goes on: then the job is taken up, not started
        twice. On SIGTERM and SIGINT the job is told to stop, and the outcome is a `StoppedError`.

        Raises:
            VitaError: it could not be started, which starting it again would not change.
        """


def stage_job(run: Run, stage: str, digest: str, task: Any = None) -> StageJob:
    """Return a stage's job, as the run's recipe describes it."""
    launch, endpoint = run.recipe.launch, run.recipe.storage.endpoint
    # python, not this one's path: the nodes have images and environments of their own
    command = ("python", "-m", "vita_train.launch.worker", run.uri(stage, RECIPE), stage, run.name)
    environment = {STEP_DIGEST_VARIABLE: digest, **({ENDPOINT: endpoint} if endpoint else {})}
    return StageJob(
        run,
        stage,
        digest,
        command,
        Resources(launch.nodes, launch.nproc, launch.threads),
        environment,
        task=task,
    )


def write_job_recipe(job: StageJob) -> None:
    """Write the recipe to ``<run>/<stage>/recipe.yaml``, where the nodes read it."""
    job.run.store.write(job.run.key(job.stage, RECIPE), dump_recipe(job.run.recipe).encode())


def on_this_machine(command: tuple[str, ...]) -> list[str]:
    """Return a job's command for this machine, with this process's own Python."""
    return [sys.executable, *command[1:]]


def node_variables(resources: Resources, node: int, master: str, port: int) -> dict[str, str]:
    """Return the variables by which torchrun on a node finds the others.

    Args:
        resources: of the job.
        node: number of the node, from 0.
        master: address of node 0, as the others reach it.
        port: a free port there.
    """
    return {
        "PET_NNODES": str(resources.nodes),
        "PET_NODE_RANK": str(node),
        "PET_MASTER_ADDR": master,
        "PET_MASTER_PORT": str(port),
        "PET_NPROC_PER_NODE": str(resources.nproc),
    }
