"""The sbatch script, and what a recipe may put into it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vita_train.errors import RecipeError
from vita_train.launch.backend import StageJob, stage_job
from vita_train.launch.slurm.script import job_name, sbatch_script
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run


def job_of(root: Path, *settings: str) -> StageJob:
    given = [f"launch.settings.slurm.{setting}" for setting in settings]
    launch = ["launch.backend=slurm", "launch.nodes=4", "launch.nproc=8", "launch.threads=2"]
    return stage_job(
        Run(load_recipe("smoke", [f"storage.root={root}", *launch, *given]), "r"), "1.1", "d1"
    )


def script_of(root: Path, *settings: str) -> str:
    job = job_of(root, *settings)
    return sbatch_script(job, job.settings.slurm, root / "a folder")


def test_a_gpu_a_rank_and_a_task_a_node(tmp_path: Path) -> None:
    lines = script_of(tmp_path, "gres=gpu:h100", "time=30", "options={mem: 200G}").splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    wanted = {"--nodes=4", "--ntasks-per-node=1", "--gres=gpu:h100:8", "--cpus-per-task=16"}
    assert asked >= {*wanted, "--time=30", "--mem=200G", "--comment=d1", "--requeue"}
    assert not any(option.startswith(("--partition", "--account")) for option in asked)


def test_it_is_a_script_that_the_shell_reads(tmp_path: Path) -> None:
    script = script_of(tmp_path, "requeue=false")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --no-requeue\n" in script


@pytest.mark.parametrize("restarts", [None, 0, 2])
def test_the_step_of_each_start_has_a_number_of_its_own(
    tmp_path: Path, restarts: int | None
) -> None:
    """What a lost node was not told in time is of a step that is no more."""
    srun, told = tmp_path / "srun", tmp_path / "told"
    srun.write_text(f'#!/bin/sh\necho "$*" >> {told}\n')
    srun.chmod(0o755)
    count = {} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **count}
    subprocess.run(["bash"], input=script_of(tmp_path), env=environment, text=True, check=True)
    *before, step = told.read_text().splitlines()
    assert before == ["--nodes=1 --ntasks=1 true"] * (restarts or 0)
    assert "vita_train.launch.slurm.node" in step


@pytest.mark.parametrize(
    "setting",
    ["partition=a b", "account='x\\ny'", "options={nodes: '9'}", "options={wrap: ls}", "qos=$(ls)"],
)
def test_nothing_of_a_recipe_is_read_by_a_shell(tmp_path: Path, setting: str) -> None:
    with pytest.raises(RecipeError):
        script_of(tmp_path, setting)


def test_runs_of_one_name_in_two_places_are_two_jobs(tmp_path: Path) -> None:
    assert job_name(job_of(tmp_path / "a")) != job_name(job_of(tmp_path / "b"))
    assert job_name(job_of(tmp_path / "a")) == job_name(job_of(tmp_path / "a"))
