"""Jobs in a real SLURM, with commands that take no time instead of stages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.errors import raises_code
from tests.helpers.slurm_cluster import SlurmCluster
from vita_train.errors import PeerLostError, StoppedError, UserError, VitaError
from vita_train.launch.backend import Outcome, Resources, StageJob
from vita_train.launch.slurm.launcher import SlurmBackend
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run

LAUNCH = """
import sys
from pathlib import Path
from tests.slurm.test_jobs import job_of
from vita_train.launch.slurm.launcher import SlurmBackend

outcome = SlurmBackend().run(job_of(Path(sys.argv[1]), sys.argv[2]))
print(type(outcome.failure).__name__, outcome.may_retry)
"""


def job_of(folder: Path, behaviour: str, digest: str = "d1", **settings: Any) -> StageJob:
    """Return a job of two nodes that runs `tests.slurm.node_command`."""
    given = {"poll": 0.3, "grace": 30, **settings}
    overrides = [
        f"launch.settings.slurm.{name}={json.dumps(value)}" for name, value in given.items()
    ]
    recipe = load_recipe("smoke", [f"storage.root={folder}", "launch.backend=slurm", *overrides])
    command = ("python", "-m", "tests.slurm.node_command", behaviour, str(folder))
    return StageJob(Run(recipe, folder.name[:40].replace("_", "-")), "1.1", digest, command,
                    Resources(2, 2, 1))  # fmt: skip


def both_run(folder: Path) -> bool:
    return all((folder / f"started-{node}").exists() for node in (0, 1))


def run(job: StageJob) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    return SlurmBackend(lines.append).run(job), lines


def test_each_node_is_told_which_it_is_and_where_the_ranks_meet(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    outcome, lines = run(job_of(tmp_path, "done"))
    assert outcome.failure is None
    nodes = [json.loads((tmp_path / f"started-{node}").read_text()) for node in (0, 1)]
    assert [node["PET_NODE_RANK"] for node in nodes] == ["0", "1"]
    assert {node["PET_NNODES"] for node in nodes} == {node["PET_NPROC_PER_NODE"] for node in nodes}
    assert len({(node["PET_MASTER_ADDR"], node["PET_MASTER_PORT"]) for node in nodes}) == 1
    assert [node["threads"] for node in nodes] == ["2", "2"]
    assert "hello from 0" in lines
    assert "hello from 1" in (Path(outcome.logs) / "node-1.log").read_text()


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        ("refuse", UserError, "the data has no images"),
        ("die", PeerLostError, "killed by signal"),
        ("crash", VitaError, "shapes differ"),
    ],
)
def test_why_a_job_failed_is_what_the_node_said_that_failed_first(
    slurm: SlurmCluster,
    tmp_path: Path,
    behaviour: str,
    kind: type[VitaError],
    words: str,
) -> None:
    outcome, _ = run(job_of(tmp_path, behaviour))
    assert isinstance(outcome.failure, kind)
    assert words in str(outcome.failure), outcome.failure


def test_what_sbatch_refuses_is_the_users_error(slurm: SlurmCluster, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="invalid partition"):
        run(job_of(tmp_path, "done", partition="nowhere"))


def test_a17_the_script_passes_sbatch_test_only(slurm: SlurmCluster, tmp_path: Path) -> None:
    """What is written is what SLURM takes."""
    outcome, _ = run(job_of(tmp_path, "done", time=10, constraint="", options={"mem": "1G"}))
    done = subprocess.run(
        ["sbatch", "--test-only", str(Path(outcome.logs) / "job.sbatch")],
        env=slurm.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _launcher(folder: Path, behaviour: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(folder), behaviour],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_lets_the_ranks_save_their_state_and_takes_the_job_away(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    launcher = _launcher(tmp_path, "wait")
    slurm.until(lambda: both_run(tmp_path), "a running job")
    launcher.send_signal(signal.SIGINT)
    out, err = launcher.communicate(timeout=60)
    assert out == "StoppedError False\n", err
    assert (tmp_path / "stopped-0").exists()
    assert (tmp_path / "stopped-1").exists()
    assert not slurm.ask("squeue", "--noheader")


def test_a_job_that_waits_is_cancelled_too(slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.ask("scontrol", "update", "PartitionName=low", "State=DOWN")
    try:
        launcher = _launcher(tmp_path, "wait")
        slurm.until(lambda: slurm.ask("squeue", "--noheader"), "a waiting job")
        launcher.terminate()
        out, err = launcher.communicate(timeout=60)
    finally:
        slurm.ask("scontrol", "update", "PartitionName=low", "State=UP")
    assert out == "StoppedError False\n", err
    assert not slurm.ask("squeue", "--noheader")


def test_a_killed_launchers_job_is_taken_up_and_not_started_twice(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    launcher = _launcher(tmp_path, "wait")
    slurm.until(lambda: both_run(tmp_path), "a running job")
    launcher.kill()
    launcher.communicate()
    with raises_code(UserError, "VT-USE-264", "scancel"):
        run(job_of(tmp_path, "wait", digest="d2"))
    job = slurm.ask("squeue", "--noheader", "--format=%i")
    threading.Timer(3, lambda: slurm.ask("scancel", job)).start()
    outcome, lines = run(job_of(tmp_path, "wait"))
    assert lines[0] == f"job {job}: taken up"
    assert isinstance(outcome.failure, StoppedError)
    assert len((tmp_path / "started-0").read_text().splitlines()) == 1


def test_a_preempted_job_saves_its_state_and_goes_on_when_there_is_room(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    def preempt() -> None:
        slurm.until(lambda: both_run(tmp_path), "a running job")
        slurm.ask("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null",
                  "--wrap", "sleep 3")  # fmt: skip

    other = threading.Thread(target=preempt)
    other.start()
    outcome, lines = run(job_of(tmp_path, "wait-once"))
    other.join()
    assert outcome.failure is None, outcome.failure
    assert (tmp_path / "stopped-0").read_text() == "0"
    assert any("it was preempted; submitting it again" in line for line in lines)
    assert len((tmp_path / "started-1").read_text().splitlines()) == 2


def test_the_controller_may_stay_away_for_a_while(slurm: SlurmCluster, tmp_path: Path) -> None:
    def restart() -> None:
        slurm.until(lambda: both_run(tmp_path), "a running job")
        slurm.lose("slurmctld")
        (tmp_path / "stopped-0").write_text("")
        slurm.start_controller()

    other = threading.Thread(target=restart)
    other.start()
    job = threading.Timer(25, lambda: slurm.ask("scancel", "--user", str(os.geteuid())))
    job.start()
    outcome, _ = run(job_of(tmp_path, "wait"))
    other.join()
    job.cancel()
    assert isinstance(outcome.failure, StoppedError)


@pytest.mark.slow
def test_a_job_that_meets_its_time_limit_saves_its_state_and_is_submitted_again(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    outcome, lines = run(job_of(tmp_path, "wait-once", time=2, renewals=1))
    assert outcome.failure is None, outcome.failure
    assert sum("submitted, 2 nodes of 2 ranks" in line for line in lines) == 2
    assert (tmp_path / "stopped-1").exists()
