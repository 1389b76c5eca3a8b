"""A job backend that is no part of the package: two nodes as processes, tried again, one setting of
its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.counting import PREPARE, counting_recipe
from tests.helpers.errors import shows_code
from tests.helpers.plugin_world import with_plugin, write_package
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run

DECLARED = '''
from vita_train.recipe.backends import JobBackendSpec, register_job_backend
from vita_train.recipe.base import Strict


class DeskSettings(Strict):
    """Settings of the desk."""

    drawer: str = "top"


register_job_backend(JobBackendSpec("desk", "desks.work:Desk", settings=DeskSettings))
'''
WORK = """
import os
import socket
import subprocess

from vita_train.errors import PeerLostError
from vita_train.launch.backend import Outcome, node_variables, on_this_machine
from vita_train.launch.outcome import node_failure


class Desk:
    def check(self, run):
        return "a desk"

    def run(self, job):
        logs = job.run.logs_dir(job.stage)
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / "attempts").open("a") as file:
            file.write(f"{job.attempt} {job.settings.desk.drawer}\\n")
        if job.attempt == 0:
            return Outcome(PeerLostError("the desk fell over"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = []
        for node in range(job.resources.nodes):
            with (logs / f"node-{node}.log").open("wb") as log:
                env = {**os.environ, **job.environment,
                       **node_variables(job.resources, node, "127.0.0.1", port),
                       "VITA_TRAIN_TERMINATION_LOG": str(logs / f"node-{node}.json")}
                command = on_this_machine(job.command)
                processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        codes = [process.wait() for process in processes]
        failures = [node_failure(code, logs / f"node-{node}.json", logs / f"node-{node}.log")
                    for node, code in enumerate(codes)]
        return Outcome(next(filter(None, failures), None), logs=str(logs))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Smoke's model, a page of text and one stage, on two nodes of the desk."""
    launch = {"backend": "desk", "nodes": 2, "settings": {"desk": {"drawer": "bottom"}}}
    return counting_recipe(tmp_path, launch)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return with_plugin(write_package(tmp_path / "site", "desks", declared=DECLARED, work=WORK))


def _python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_stage_trains_through_it(
    recipe: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    prepared = _python(environment, "-c", PREPARE, str(recipe))
    assert prepared.returncode == 0, prepared.stderr
    run = Run(load_recipe("smoke", [f"storage.root={tmp_path / 'runs'}"]), "r")
    launch = ("-m", "vita_train.cli.main", "launch", str(recipe), "--stage", "words", "--run", "r")
    index = next(run.corpus_dir.glob("counting/train*"))
    index.rename(tmp_path / "away")
    refused = _python(environment, *launch)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert shows_code(refused.stderr, "VT-DATA-004") or shows_code(refused.stderr, "VT-DATA-008"), (
        "what a rank said is the reason, not the status of a node"
    )
    (tmp_path / "away").rename(index)
    done = _python(environment, *launch)
    assert done.returncode == 0, done.stdout + done.stderr
    final = run.final("words")
    assert final is not None
    assert final.lineage["world"] == 2
    attempts = (run.logs_dir("words") / "attempts").read_text().splitlines()
    assert attempts == ["0 bottom", "1 bottom"] * 2
    assert "the desk fell over; starting it again" in done.stdout + done.stderr


def test_without_the_plugin_its_name_and_settings_are_unknown(recipe: Path) -> None:
    done = _python({**os.environ}, "-m", "vita_train.cli.main", "recipe", "check", str(recipe))
    assert done.returncode == 2
    known = "auto, local, kubernetes, trainjob, pytorchjob, slurm"
    assert shows_code(done.stderr, "VT-RECIPE-047", "'desk'", known)
    assert shows_code(done.stderr, "VT-RECIPE-050", "'desk'", "launch.settings")


def test_its_settings_are_checked(recipe: Path, environment: dict[str, str]) -> None:
    done = _python(
        environment,
        "-m",
        "vita_train.cli.main",
        "recipe",
        "check",
        str(recipe),
        "--set",
        "launch.settings.desk.drawr=x",
    )
    assert done.returncode == 2
    assert shows_code(done.stderr, "VT-RECIPE-050", "'drawer'")
