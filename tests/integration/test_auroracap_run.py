"""AuroraCap's stages from an empty folder, over archives that are served on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "vita_train.cli.main", "run", "auroracap-tiny", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def attributes(folder: Path, name: str) -> float:
    final = json.loads((folder / "runs" / name / "language" / "final.json").read_text())
    return float(final["metrics"]["caption.test_seen.attributes"])


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_merged_tokens_cost_less_than_three_points(tmp_path: Path) -> None:
    run(tmp_path)
    runs = tmp_path / "runs"
    assert (runs / "auroracap-tiny" / "export" / "model").is_dir()
    # The stages before leave tokens whole in both
    shutil.copytree(runs / "auroracap-tiny", runs / "whole")
    for stage in ("vision", "language"):
        shutil.rmtree(runs / "whole" / stage)
    whole = ["--set", "stages.language.batch.seq_len=384"]  # a video's whole tokens
    for stage in ("vision", "language"):
        whole += ["--set", f"stages.{stage}.merge_visual_tokens=false"]
    run(tmp_path, "--run", "whole", "--until", "language", *whole)
    assert attributes(tmp_path, "auroracap-tiny") > attributes(tmp_path, "whole") - 0.03
