"""The data image as built: the pipeline's own data steps, from the compiled file, under restricted
settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.helpers.images.engine import ROOT, Engine
from tests.helpers.pipeline_step import command_of
from vita_train import __version__
from vita_train.runs.manifest import Manifest

pytestmark = [pytest.mark.images, pytest.mark.slow, pytest.mark.timeout(3600)]


def test_its_health_command_passes(engine: Engine, data_image: str) -> None:
    done = engine.run(data_image, "python", "-m", "vita_train.preflight.selfcheck", "data")
    assert (done.returncode, done.stdout) == (0, f"data {__version__}: ok\n"), done.stderr


def test_it_fetches_and_prepares_as_a_pipeline_tells_it_to(
    engine: Engine, data_image: str, volume: Path
) -> None:
    pipeline = next(
        yaml.safe_load_all((ROOT / "pipelines" / "compiled" / "ladder.yaml").read_text())
    )
    for component in ("data-fetch", "data-validation"):
        command = command_of(pipeline, component, "/cache/outputs", storage_root="/cache/runs")
        done = engine.run(data_image, *command, options=["--volume", f"{volume}:/cache"])
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    run = volume / "runs" / "first"
    fetched = Manifest.model_validate_json((run / "data_fetch" / "final.json").read_text())
    prepared = Manifest.model_validate_json((run / "prepare" / "final.json").read_text())
    assert fetched.metrics["datasets"] > 1
    assert prepared.metrics["used"] == prepared.metrics["records"] > 0
    handed_on = Manifest.model_validate_json((volume / "outputs" / "corpus").read_text())
    assert handed_on.digest == prepared.digest


def test_it_can_write_nowhere_but_where_it_is_let(engine: Engine, data_image: str) -> None:
    done = engine.run(
        data_image,
        "sh",
        "-c",
        "for place in / /opt/venv /etc /var/tmp /tmp; do "
        "touch $place/written 2>/dev/null && echo $place; done; true",
    )
    assert done.stdout.split() == ["/tmp"]
