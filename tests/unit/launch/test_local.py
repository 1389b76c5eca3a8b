"""The local launcher: what it returns, what it retries, what it says, and that it leaves no process
behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from tests.helpers.no_source import NO_SOURCE
from vita_train.errors import EXIT_RETRYABLE, UserError, VitaError
from vita_train.launch.backend import stage_job
from vita_train.launch.local import LocalBackend
from vita_train.launch.stage import finish
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import BatchSpec
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run

FAKE = str(Path(__file__).with_name("fake_stage.py"))
STAGE = "1.1"


def _recipe(root: Path, nproc: int = 1, restarts: int = 1) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "fake",
            "storage": {"root": str(root)},
            "launch": {"nproc": nproc, "restarts": restarts},
            "data": NO_SOURCE,
            "stages": {
                STAGE: {
                    "objective": "next_token",
                    "data": {"a": 1.0},
                    "trainable": {"llm": 1e-3},
                    "steps": 1,
                }
            },
        }
    )


def launch(recipe: Recipe, behaviour: str) -> Manifest:
    """Run the fake stage on this machine as a stage's job is run."""
    root = Path(recipe.storage.root)
    return finish(
        LocalBackend(entry=_entry(behaviour, root)), stage_job(Run(recipe, "r"), STAGE, "0" * 64)
    )


def _entry(behaviour: str, root: Path) -> list[str]:
    return [FAKE, behaviour, str(root), "r", STAGE]


def _attempts(root: Path) -> int:
    return int((root / "r" / STAGE / "attempts-0").read_text())


def test_two_ranks_commit_one_manifest(tmp_path: Path) -> None:
    manifest = launch(_recipe(tmp_path, nproc=2), "commit")
    assert manifest.stage == STAGE
    assert manifest.metrics == {"world": 2.0, "threads": 1.0}


def test_refusal_of_one_rank_is_the_error_whatever_the_others_say(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the data has no images") as caught:
        launch(_recipe(tmp_path, nproc=2), "refuse")
    assert "do something" in str(caught.value)
    assert _attempts(tmp_path) == 1


def test_retryable_end_is_started_again(tmp_path: Path) -> None:
    launch(_recipe(tmp_path), "retry-once")
    assert _attempts(tmp_path) == 2


def test_crash_names_the_log_and_quotes_its_end(tmp_path: Path) -> None:
    with raises_code(VitaError, "VT-FAIL-003") as caught:
        launch(_recipe(tmp_path), "crash")
    assert caught.value.exit_code == 1
    assert Path(caught.value.where).exists()
    assert _attempts(tmp_path) == 1


def test_killed_rank_is_started_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, restarts=1)
    batch = BatchSpec(global_batch_size=1, seq_len=64)
    stages = {STAGE: recipe.stages[STAGE].model_copy(update={"batch": batch})}
    small = recipe.model_copy(update={"model": load_recipe("smoke").model, "stages": stages})
    with raises_code(VitaError, "VT-PEER-002", "SIGKILL", f"estimate of stage {STAGE}") as caught:
        launch(small, "killed")
    assert caught.value.exit_code == EXIT_RETRYABLE
    assert f"--set 'stages.{STAGE}.engine.checkpoint_activations=selective'" in caught.value.remedy
    assert _attempts(tmp_path) == 2


def test_done_without_a_commit_is_no_success(tmp_path: Path) -> None:
    with raises_code(VitaError, "VT-FAIL-004"):
        launch(_recipe(tmp_path), "nothing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_launcher(tmp_path: Path, number: int) -> None:
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent was killed")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\nimport test_local as t\n"
        "from vita_train.errors import VitaError\nroot = Path(sys.argv[1])\n"
        "try: t.launch(t._recipe(root, nproc=2), 'sleep')\n"
        "except VitaError as error: sys.exit(error.exit_code)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    pids = [
        _eventually(
            lambda path=tmp_path / "r" / STAGE / f"pid-{rank}": path.exists() and path.read_text()
        )
        for rank in range(2)
    ]
    launcher.send_signal(number)
    assert launcher.wait(timeout=60) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    for pid in pids:
        _eventually(lambda pid=pid: not _running(int(pid)))


def _eventually(probe: Callable[[], object], seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := probe():
            return str(found)
        time.sleep(0.05)
    raise AssertionError("did not happen in time")


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
