"""The demo's language model passes its gate however the processor rounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.draws import roundings
from vita_train.recipe.load import load_recipe
from vita_train.runs.final import read_final
from vita_train.storage.factory import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
GATE = "textqa.test.accuracy"


def run(root: Path, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vita_train.cli.main",
            "run",
            "tiny",
            "--set",
            f"storage.root={root}",
            *arguments,
        ],
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data, prepared."""
    root = tmp_path_factory.mktemp("runs")
    run(root, "--until", "prepare")
    return root


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_the_language_model_passes_its_gate(prepared: Path, capability: str) -> None:
    if capability not in roundings():
        pytest.skip(f"this processor has no {capability}")
    run(prepared, "--only", "0.llm", "--force", ATEN_CPU_CAPABILITY=capability)
    manifest = read_final(open_store(str(prepared)), "tiny/0.llm")
    assert manifest is not None
    assert manifest.lineage["samples"]["until_met"], (
        "its own measures were met, not only the gate by luck"
    )
    bound = load_recipe("tiny").stages["0.llm"].gates[GATE].min
    assert bound is not None
    assert manifest.metrics[GATE] >= bound
