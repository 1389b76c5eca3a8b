"""A stage that trains on two nodes of a real SLURM, undisturbed and disturbed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.counting import PREPARE, counting_recipe
from tests.helpers.slurm_cluster import SlurmCluster

STEPS, INTERVAL = 60, 10
HERE = ("launch.backend=local", "launch.nodes=1", "launch.nproc=2")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data are prepared."""
    settings = {"slurm": {"poll": 0.5, "grace": 60}}
    launch = {"backend": "slurm", "nodes": 2, "restarts": 0, "settings": settings}
    path = counting_recipe(
        tmp_path_factory.mktemp("run"), launch, steps=STEPS, checkpoint_interval=INTERVAL
    )
    subprocess.run([sys.executable, "-c", PREPARE, str(path)], check=True)
    return path


def stage_of(recipe: Path) -> Path:
    return recipe.parent / "runs" / "r" / "words"


def train(recipe: Path, *settings: str) -> dict[str, Any]:
    """Train the stage; return digests of its weights, its samples and its printed lines."""
    command = [sys.executable, "-m", "vita_train.cli.main", "launch", str(recipe)]
    options = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(
        [*command, "--stage", "words", "--run", "r", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stage = stage_of(recipe)
    lineage = json.loads((stage / "final.json").read_text())["lineage"]
    weights = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((stage / "final").rglob("*.safetensors"))
    }
    assert weights
    return {
        "weights": weights,
        "samples": lineage["samples"],
        "world": lineage["world"],
        "lines": done.stderr,
    }


def step_of(recipe: Path) -> int:
    try:
        return int(json.loads((stage_of(recipe) / "progress.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0


@pytest.fixture(scope="module")
def here(recipe: Path) -> dict[str, Any]:
    """What two processes of this machine make of it."""
    trained = train(recipe, *HERE)
    shutil.rmtree(stage_of(recipe))
    return trained


@pytest.mark.timeout(600)
def test_a17_two_nodes_train_what_two_processes_of_this_machine_train(
    slurm: SlurmCluster, recipe: Path, here: dict[str, Any]
) -> None:
    trained = train(recipe)
    shutil.rmtree(stage_of(recipe))
    assert trained["world"] == 2
    assert trained["weights"] == here["weights"]
    assert trained["samples"] == here["samples"]


@pytest.mark.timeout(600)
def test_a17_a19_a_lost_node_puts_the_job_back_and_it_goes_on_exactly(
    slurm: SlurmCluster, recipe: Path, here: dict[str, Any]
) -> None:
    """The job is taken from the queue again by SLURM itself, and nothing shows that it
    was disturbed."""

    def lose() -> None:
        slurm.until(lambda: step_of(recipe) > INTERVAL, "a checkpoint", seconds=200)
        slurm.lose("n1")
        slurm.until(lambda: "Restarts=1" in slurm.ask("scontrol", "show", "job"), "a requeue")
        slurm.start_node("n1")

    other = threading.Thread(target=lose)
    other.start()
    trained = train(recipe)
    other.join()
    shutil.rmtree(stage_of(recipe))
    assert "put back into the queue 1 times" in trained["lines"]
    assert trained["weights"] == here["weights"]
    assert trained["samples"] == here["samples"]
