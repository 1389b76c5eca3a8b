"""One stage over two machines that are started by hand: two launchers, each with a torchrun and a
rank of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from tests.helpers.evaluation_world import small_corpus, small_recipe
from vita_train.errors import EXIT_DONE, EXIT_REFUSED, UserError
from vita_train.launch.nodes import (
    PUBLIC_NETWORK,
    Nodes,
    network_environment,
    nodes_by_hand,
    obsolete_variables,
)
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import StorageSpec
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run

RUN = "r"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data are prepared, and its recipe beside it."""
    root = tmp_path_factory.mktemp("runs")
    stage = {
        "objective": "next_token",
        "data": {"textqa": 1.0},
        "trainable": {"llm": 1e-3},
        "steps": 3,
        "batch": {"global_batch_size": 4, "seq_len": 128},
        "eval": {"batches": 1, "max_samples": 2},
    }
    recipe = small_recipe(storage=StorageSpec(root=str(root)).model_dump(), stages={"0.llm": stage})
    small_corpus(root / RUN / "prepare", recipe, records=8)
    Run(recipe, RUN).commit(
        "prepare", Manifest(kind="prepared", run=RUN, stage="prepare", digest="d")
    )
    (root / "mine.yaml").write_text(dump_recipe(recipe))
    return root


def machines(root: Path, *settings: list[str]) -> list[tuple[int, str]]:
    """Start the stage on two machines; return exit code and output of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vita_train.cli.main",
        "launch",
        str(root / "mine.yaml"),
        "--stage",
        "0.llm",
        "--run",
        RUN,
        "--set",
        f"storage.root={root}",
        "--nnodes",
        "2",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(port),
    ]
    started = [
        subprocess.Popen(
            [*command, "--node-rank", str(rank), *extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, extra in enumerate(settings)
    ]
    return [
        (process.wait(), output)
        for process, output in [
            (process, process.communicate(timeout=300)[0]) for process in started
        ]
    ]


def test_two_machines_train_one_stage(prepared: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(prepared, tmp_path / "runs"))
    (first, shown), (second, told) = machines(root, [], [])
    assert (first, second) == (EXIT_DONE, EXIT_DONE), shown + told
    assert "machine 0 commits" in told
    manifest = json.loads(shown)
    assert manifest["lineage"]["world"] == 2
    assert {path.name for path in (root / RUN / "0.llm" / "logs").glob("rank-*.log")} == {
        "rank-0.log",
        "rank-1.log",
    }
    assert Run(small_recipe(storage={"root": str(root)}), RUN).final("0.llm") is not None


@pytest.mark.parametrize(
    "setting", ["seed=7", "stages.0.llm.checkpoint_interval=3"], ids=["weights", "checkpoints"]
)
def test_machines_with_different_recipes_stop(prepared: Path, tmp_path: Path, setting: str) -> None:
    root = Path(shutil.copytree(prepared, tmp_path / "runs"))
    for code, output in machines(root, [], ["--set", setting]):
        assert code == EXIT_REFUSED, output
        assert "of rank 1 is not that of rank 0" in output
    assert not (root / RUN / "0.llm" / "final.json").exists()


def test_the_place_of_a_machine_comes_from_flags_or_the_public_scripts_variables() -> None:
    environment = {"INDEX": "1", "MASTER_ADDR": "host", "MASTER_PORT": "9999"}
    assert nodes_by_hand(4, environment=environment) == Nodes(4, 1, "host", 9999)
    assert nodes_by_hand(4, 2, "other", 7, environment=environment) == Nodes(4, 2, "other", 7)
    assert nodes_by_hand(1, environment={}) == Nodes()
    for broken in (
        {},
        {"INDEX": "x", "MASTER_ADDR": "h"},
        {"INDEX": "4", "MASTER_ADDR": "h"},
        {"INDEX": "0"},
    ):
        with pytest.raises(UserError):
            nodes_by_hand(4, environment=broken)


def test_network_variables_are_one_preset_and_obsolete_ones_are_named() -> None:
    found = network_environment("public", {"NCCL_DEBUG": "WARN"})
    assert found == {name: value for name, value in PUBLIC_NETWORK.items() if name != "NCCL_DEBUG"}
    assert network_environment("", {}) == {}
    with raises_code(UserError, "VT-USE-060", "public"):
        network_environment("fast", {})
    assert [
        line.split()[0]
        for line in obsolete_variables({"NCCL_TIMEOUT": "25200", "NCCL_DEBUG": "INFO"})
    ] == ["NCCL_TIMEOUT"]
