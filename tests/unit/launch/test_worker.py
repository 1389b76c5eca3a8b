"""The entry of a training pod, as two pods of two ranks each: real torchrun processes with a
controller's variables."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.no_source import NO_SOURCE
from vita_train.errors import EXIT_DONE, EXIT_REFUSED, EXIT_STOPPED, VitaError
from vita_train.launch.worker import say_last_words
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import Recipe

FAKE = str(Path(__file__).with_name("fake_rank.py"))
ENTRY = f"""
import sys
from vita_train.launch import worker as node
node.rank_entry = lambda logs, recipe, stage, run: [{FAKE!r}, str(logs), recipe, stage, run]
sys.exit(node.main())
"""


def _recipe(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        dump_recipe(
            Recipe.model_validate(
                {
                    "name": "fake",
                    "data": NO_SOURCE,
                    "stages": {
                        "1.1": {
                            "objective": "next_token",
                            "data": {"a": 1.0},
                            "trainable": {"llm": 1e-3},
                            "steps": 1,
                        }
                    },
                }
            )
        )
    )
    return path


def _pods(
    folder: Path, behaviour: str, nodes: int = 2, nproc: int = 2
) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    recipe = _recipe(folder)
    pods = []
    for node in range(nodes):
        env = {
            **os.environ,
            "PET_NNODES": str(nodes),
            "PET_NPROC_PER_NODE": str(nproc),
            "PET_NODE_RANK": str(node),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": port,
            "VITA_TRAIN_GRACE": "30",
            "VITA_TRAIN_TERMINATION_LOG": str(folder / f"words-{node}"),
        }
        pods.append(
            subprocess.Popen(
                [sys.executable, "-c", ENTRY, str(recipe), behaviour, str(folder)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return pods


def test_pods_form_one_job_and_print_what_their_ranks_say(tmp_path: Path) -> None:
    pods = _pods(tmp_path, "commit")
    outs = [pod.communicate(timeout=120)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [EXIT_DONE, EXIT_DONE]
    assert {"rank 0 of 4", "half a line", "[rank-1] rank 1 of 4", "[rank-1] half a line"} <= set(
        outs[0].splitlines()
    )
    assert {"[rank-2] rank 2 of 4", "[rank-3] rank 3 of 4"} <= set(outs[1].splitlines())


def test_a_refusal_is_the_pods_exit_code_and_its_last_words(tmp_path: Path) -> None:
    pods = _pods(tmp_path, "refuse")
    err = pods[1].communicate(timeout=120)[1]
    pods[0].terminate()
    pods[0].communicate(timeout=60)
    assert pods[1].returncode == EXIT_REFUSED  # torchrun's own would be 1
    assert "error: recipe.yaml:7: no images (name another)" in err
    text = (tmp_path / "words-1").read_bytes()
    assert len(text) <= 4096
    words = json.loads(text)
    assert (words["code"], words["what"], words["where"]) == (
        EXIT_REFUSED,
        "no images",
        "recipe.yaml:7",
    )
    assert words["tails"]["rank-3"].endswith("about to refuse")


def test_a_pod_that_is_asked_to_stop_stops_its_ranks_and_says_so(tmp_path: Path) -> None:
    [pod] = _pods(tmp_path, "wait", nodes=1)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("started-*"))) < 2:
        assert time.monotonic() < deadline, pod.poll()
        time.sleep(0.1)
    pod.send_signal(signal.SIGTERM)
    err = pod.communicate(timeout=60)[1]
    assert pod.returncode == EXIT_STOPPED
    assert "error: " in err
    assert "stopped as asked" in err
    assert json.loads((tmp_path / "words-0").read_text())["code"] == EXIT_STOPPED
    for started in tmp_path.glob("started-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(started.read_text()), 0)


def test_a_recipe_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    env = {**os.environ, "VITA_TRAIN_TERMINATION_LOG": str(tmp_path / "words")}
    done = subprocess.run(
        [sys.executable, "-m", "vita_train.launch.worker", str(tmp_path / "none.yaml"), "1.1", "r"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != EXIT_DONE
    assert done.stderr.startswith("error: ")
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "words").read_text())["tails"] == {}


@pytest.mark.parametrize("character", ["漢", "\x01", "a"])
def test_last_words_fit_whatever_their_characters_take(tmp_path: Path, character: str) -> None:
    (tmp_path / "rank-0.log").write_text("a line\n" * 3000)
    failure = VitaError(
        character * 3000, code="VT-FAIL-003", where=character * 3000, remedy="go on"
    )
    say_last_words(failure, tmp_path, to=tmp_path / "words")
    written = (tmp_path / "words").read_bytes()
    assert len(written) <= 4096
    said = json.loads(written)
    assert (said["code"], said["error"], said["remedy"]) == (1, "VT-FAIL-003", "go on")
    assert said["what"].startswith(character)
