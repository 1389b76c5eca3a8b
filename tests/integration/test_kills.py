"""Steps and checkpoints under random kills and storage faults, as benchmarks/kills.py counts
them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "what", [("kills", "--only", "prepare", "0.llm"), ("faults",)], ids=lambda what: what[0]
)
def test_what_comes_of_blows_is_what_an_undisturbed_run_gives(
    tmp_path: Path, what: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *what, "--minutes", "0.5", "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text().splitlines()]
    assert trials
    assert [trial for trial in trials if not trial["equal"]] == []
    assert "wanted" in (tmp_path / "kills.md").read_text()
