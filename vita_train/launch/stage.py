"""A stage as a job on whichever backend the recipe or the cluster's settings name: started, started
again after what may pass, and believed only after its commit is read."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from vita_train.console import say
from vita_train.errors import VitaError
from vita_train.launch.backend import JobBackend, StageJob, stage_job, write_job_recipe
from vita_train.plugins import named
from vita_train.recipe.backends import JOB_BACKENDS, JobBackendSpec
from vita_train.recipe.platform import POD, load_platform
from vita_train.recipe.schema import Recipe
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run


def backend_of(recipe: Recipe) -> JobBackendSpec:
    """Return the declaration of the backend that a recipe's jobs go to.

    Raises:
        RecipeError: the cluster's settings are wrong.
    """
    name = recipe.launch.backend
    if name == "auto":
        platform = load_platform()
        # A pipeline's step has no GPU of its own: without the chart it must not begin to train
        # there.
        name = platform.backend if platform else "kubernetes" if os.environ.get(POD) else "local"
        name = "kubernetes" if name == "auto" else name
    return JOB_BACKENDS[name]


def open_backend(recipe: Recipe) -> JobBackend:
    """Return the backend that a recipe's jobs go to.

    Raises:
        UserError: what implements it cannot be imported.
        RecipeError: as `backend_of`.
    """
    backend: JobBackend = named(backend_of(recipe).implementation)()
    return backend


def launch_stage(run: Run, stage: str, digest: str, task: Any = None) -> Manifest:
    """Run a stage to its end and return the manifest it committed.

    Args:
        run: of which.
        stage: its name.
        digest: of all that goes into the step; a backend takes up a job by it.
        task: KFP's ``TaskConfig`` of the task that launches the stage, for the pods of its job.

    Raises:
        UserError: the recipe, the data or a setting is refused.
        VitaError: as `finish` raises.
    """
    return finish(open_backend(run.recipe), stage_job(run, stage, digest, task))


def finish(backend: JobBackend, job: StageJob) -> Manifest:
    """Run a job to its end and return the manifest that its stage committed.

    Raises:
        VitaError: as `complete` raises; or the job ended as if it were done, but committed nothing.
    """
    logs = complete(backend, job)
    manifest = job.run.final(job.stage)
    if manifest is None:
        raise VitaError(
            "the job ended as if it were done, but committed nothing",
            code="VT-FAIL-004",
            where=job.run.final_uri(job.stage),
            remedy=f"its logs are in {logs}",
        )
    return manifest


def complete(backend: JobBackend, job: StageJob, *, leads: bool = True) -> str:
    """Run a job to its end, starting it again up to ``launch.restarts`` times; return where its
    logs are.

    The stage itself goes on from its last checkpoint.

    Args:
        backend: where it runs.
        job: what to run.
        leads: this launcher starts the first machine, and so says what the recipe is. Of several
            that are started by hand the others keep to their own, so that the ranks can compare.

    Raises:
        UserError: the recipe, the data or a setting was refused.
        PeerLostError: retryable, and every restart that the recipe allows was used.
        StoppedError: SIGTERM or SIGINT came.
        VitaError: the job failed; its message says why.
    """
    if leads:
        write_job_recipe(job)
    attempt = 0
    while (outcome := backend.run(replace(job, attempt=attempt))).failure is not None:
        if not outcome.may_retry or attempt >= job.run.recipe.launch.restarts:
            raise outcome.failure
        attempt += 1
        say(f"stage {job.stage}: {outcome.failure.what}; starting it again")
    return outcome.logs
