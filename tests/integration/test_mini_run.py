"""The recipe ``mini`` from data to an export that holds the whole of VITA-1.5's release."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vita_train.recipe.load import load_recipe
from vita_train.runs.final import read_final
from vita_train.storage.factory import open_store

SMALL = ["--set", "data.source.world.scale=0.005", "--set", "data.source.world.test_size=2"]


def vita(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vita_train.cli.main", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mini_runs_from_data_to_the_released_layout(tmp_path: Path) -> None:
    vita(tmp_path, "run", "mini", "--run", "m", *SMALL)
    store = open_store(str(tmp_path / "runs"))
    for stage, spec in load_recipe("mini").stages.items():
        manifest = read_final(store, f"m/{stage}")
        assert manifest is not None
        assert set(spec.trainable) <= set(manifest.modules)
    vita(tmp_path, "model", "export", "runs/m", "--to", "vita", "--out", "vita")
    summary = json.loads((tmp_path / "vita" / "export.json").read_text())
    assert {"llm", "vision", "projector", "audio_encoder", "audio_adapter"} <= set(
        summary["modules"]
    )
    assert {"codec", "speech_decoder"} <= set(summary["modules"])
    assert summary["reasons"] == {}
    assert (tmp_path / "vita" / "vita_tts_ckpt" / "codec" / "final.pt").is_file()
    assert (tmp_path / "vita" / "audio-encoder" / "train.yaml").is_file()
