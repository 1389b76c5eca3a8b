"""The user's own data in an object store, through the compiled pipeline: each step is the command
of its container, on a machine of its own that shares nothing with the others but the store."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import yaml

from tests.helpers.own_data import own_recipe, upload_world
from tests.helpers.pipeline_step import command_of
from tests.helpers.s3_server import S3Server
from vita_train.data.prepare.run import prepare
from vita_train.pipeline.compiled import sources
from vita_train.pipeline.fan_out import parts_of
from vita_train.recipe.load import load_recipe
from vita_train.runs.final import read_final
from vita_train.runs.run import Run
from vita_train.storage.factory import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("s3_credentials")]


@pytest.fixture
def bucket(s3_server: S3Server, s3_credentials: None) -> str:
    """A bucket with room for data and runs."""
    name = f"own-{uuid.uuid4().hex[:12]}"
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def pipeline(bucket: str, tmp_path: Path, s3_server: S3Server) -> Callable[[str], None]:
    """Runs a step of the pipeline of a recipe on data in the bucket, on a machine of its own."""
    registry = upload_world(tmp_path / "world", bucket, "mine", s3_server.endpoint)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own_recipe(registry), sort_keys=False))
    subprocess.run(
        [
            *(sys.executable, str(sources() / "pipelines" / "compile.py")),
            *("--recipe", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "compiled")),
        ],
        check=True,
        capture_output=True,
    )
    text = (tmp_path / "compiled" / "mine.yaml").read_text()
    definition = next(yaml.safe_load_all(text))
    recipe = definition["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]

    def run(step: str) -> None:
        command = command_of(
            definition,
            step,
            str(tmp_path / step),
            recipe=recipe,
            run="first",
            storage_root=f"s3://{bucket}/runs",
            overrides=[],
        )
        _on(tmp_path / step, command, s3_server)

    return run


def test_each_step_finds_in_the_store_what_it_needs(
    bucket: str, pipeline: Callable[[str], None], s3_server: S3Server
) -> None:
    trained = ("preflight", "train-see", "train-hear")
    for step in ("data-fetch", "data-validation", *trained, "evaluate"):
        pipeline(step)
    store = open_store(f"s3://{bucket}/runs", endpoint=s3_server.endpoint)
    prepared, measured = (read_final(store, f"first/{step}") for step in ("prepare", "evaluate"))
    assert prepared is not None
    assert measured is not None
    assert prepared.metrics["used"] > 30
    assert prepared.metrics["rejected"] == 0
    assert any(name.startswith("hear.test.") for name in measured.metrics)


def test_pods_beside_each_other_make_the_parts_that_a_third_machine_joins(
    bucket: str,
    pipeline: Callable[[str], None],
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline("data-fetch")
    uri = f"s3://{bucket}/runs/first/recipe.yaml"
    for index in ("0", "1"):
        command = [sys.executable, "-m", "vita_train.pipeline.fan_out", uri, "first", "2"]
        _on(tmp_path / f"pod-{index}", command, s3_server, JOB_COMPLETION_INDEX=index)
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "third"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    (tmp_path / "again.yaml").write_bytes(
        open_store(f"s3://{bucket}/runs", endpoint=s3_server.endpoint).read("first/recipe.yaml")
    )
    run = Run(load_recipe(str(tmp_path / "again.yaml")), "first")
    lines: list[str] = []
    prepare(
        run.recipe,
        run.present_raw() / "registry.json",
        tmp_path / "joined",
        exchange=parts_of(run),
        progress=lines.append,
    )
    assert any(line.endswith("shards were done already, 0 were not") for line in lines), lines


def _on(machine: Path, command: list[str], s3: S3Server, **more: str) -> None:
    """Run a command as on a machine of its own."""
    machine.mkdir()
    (machine / "platform.yaml").write_text("backend: local\n")
    done = subprocess.run(
        command,
        cwd=machine,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(machine),
            "VITA_TRAIN_CACHE": str(machine / "cache"),
            "VITA_TRAIN_PLATFORM": str(machine / "platform.yaml"),
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            **more,
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} {done.stdout[-3000:]} {done.stderr[-3000:]}"
