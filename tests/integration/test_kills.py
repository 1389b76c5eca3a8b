"""Steps and checkpoints under random kills and storage faults, as benchmarks/kills.py counts
them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.s3_server import find_versitygw

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "what",
    [
        ("kills", "--minutes", "5"),
        ("kills", "--minutes", "2", "--ranks", "2", "--only", "0.llm", "3.1"),
        ("kills", "--minutes", "5", "--store", "s3"),
        ("faults", "--minutes", "0.5"),
    ],
    ids=["every step", "two ranks", "on S3", "faults"],
)
def test_what_comes_of_blows_is_what_an_undisturbed_run_gives(
    tmp_path: Path, what: tuple[str, ...]
) -> None:
    if {"s3", "faults"} & {*what} and find_versitygw() is None:
        pytest.skip("tests/tools/build-versitygw.sh builds the server it needs")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *what, "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text().splitlines()]
    assert trials
    assert [trial for trial in trials if not trial["equal"]] == []
    assert "wanted" in (tmp_path / "kills.md").read_text()
