"""Starting the ranks of a test through torchrun, or one process without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "127.0.0.1:0",
    "--local-addr",
    "127.0.0.1",
]


def start(module: str, *arguments: str, ranks: int = 2) -> subprocess.Popen[str]:
    """Start a worker module on one process or on two ranks."""
    launcher = TORCHRUN if ranks == 2 else []
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", f"tests.integration.training.{module}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[3],
    )


def run(module: str, *arguments: str, ranks: int = 2, timeout: float = 600) -> tuple[int, str]:
    """Run a worker module to its end; return exit code and output."""
    process = start(module, *arguments, ranks=ranks)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate(timeout=60)
        raise AssertionError(f"the job hung:\n{output[-4000:]}") from None
    return process.returncode, output


def train(root: Path, case: dict[str, Any], ranks: int = 2) -> tuple[int, str]:
    """Run the toy stage."""
    return run("loop_worker", str(root), json.dumps(case), ranks=ranks)


def losses(root: Path) -> dict[int, float]:
    """Return the training loss of every step that the journal holds."""
    lines = (root / "run" / "1.2" / "events.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


def batches(root: Path) -> list[dict[str, Any]]:
    """Return the recorded global batches."""
    return [
        json.loads(line)
        for line in (root / "run" / "1.2" / "samples.jsonl").read_text().splitlines()
    ]


def outcome(root: Path, rank: int) -> dict[str, Any]:
    """Return the error file of a rank."""
    found: dict[str, Any] = json.loads(
        (root / "run" / "1.2" / "logs" / f"rank-{rank}.error.json").read_text()
    )
    return found


def counters(root: Path, rank: int) -> dict[str, Any]:
    """Return what a rank has counted by the end."""
    found: dict[str, Any] = json.loads((root / f"counters-{rank}.json").read_text())
    return found
