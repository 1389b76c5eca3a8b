"""The data commands: one line for what is wrong, exit code 2, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from typer.testing import CliRunner

from tests.helpers.data_world import recipe, small_world
from vita_train.cli.main import build_app
from vita_train.errors import EXIT_REFUSED


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(build_app(), ["data", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_check_prepare_and_statistics(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe().model_dump(mode="json")))
    assert "ok, 18 of 18 records" in run(
        "check", tmp_path / "recipe.yaml", registry, "--workers", "1"
    )
    assert "18 of 18" in run(
        "prepare", tmp_path / "recipe.yaml", registry, tmp_path / "corpus", "--workers", "1"
    )
    figures = run("stats", tmp_path / "corpus")
    assert "look/train" in figures
    assert "records by tokens" in figures


def test_costs() -> None:
    told = run("tokens", "vita-1.5-7b", "--image", "1280x720", "--audio", "3.54", "--video", "60")
    assert "4 x 2 grid, 9 tiles, 2304 positions" in told
    assert "352 frames, 44 positions" in told
    assert "16 frames, 4096 positions" in told
    tiled = run("tokens", "vita-1.5-7b", "--video", "6", "--set", "data.video.tile_frames=true")
    assert "6 frames, at most 16 tiles, 4096 positions" in tiled


def test_bad_data_ends_in_one_line(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe().model_dump(mode="json")))
    (tmp_path / "pics" / "p0.jpg").write_bytes(b"no image")
    command = [
        sys.executable,
        "-c",
        "from vita_train.cli.main import main; main()",
        "data",
        "prepare",
        str(tmp_path / "recipe.yaml"),
        str(registry),
        str(tmp_path / "corpus"),
        "--workers",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_REFUSED
    assert "unreadable image" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "corpus").exists()
