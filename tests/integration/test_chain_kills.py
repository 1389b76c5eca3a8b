"""VILA's data chain under twenty kills, as benchmarks/chain_kills.py counts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "chain_kills.py"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("chain", ["recipe", "web"])
def test_what_a_killed_chain_makes_has_the_bytes_of_an_undisturbed_one(chain: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "20", "--chains", chain],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert sum(outcome["kills"].values()) == 20
    assert outcome["files"] > 0
    assert outcome["differing"] == []
