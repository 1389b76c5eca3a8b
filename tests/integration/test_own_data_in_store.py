"""The user's own data in an object store, through the compiled pipeline: each step is the command
of its container, on a machine of its own that shares nothing with the others but the store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.helpers.data_world import small_world
from tests.helpers.pipeline_step import command_of
from tests.helpers.s3_server import S3Server
from vita_train.pipeline.compiled import sources
from vita_train.recipe.presets import preset_path
from vita_train.runs.final import read_final
from vita_train.storage.factory import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("s3_credentials")]


@pytest.fixture
def bucket(tmp_path: Path, s3_server: S3Server, s3_credentials: None) -> str:
    """A bucket with records and media, and room for runs."""
    name = f"own-{os.getpid()}"
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    world = small_world(tmp_path / "world").parent
    for path in sorted(world.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), name, f"mine/{path.relative_to(world).as_posix()}")
    return name


def recipe_of(bucket: str) -> dict[str, Any]:
    """A recipe of two stages on the records in a bucket."""
    smoke = preset_path("smoke")
    assert smoke is not None
    common = {"steps": 2, "eval": {"batches": 1, "max_samples": 2}}
    batch = {"global_batch_size": 2, "seq_len": 256}
    shipped = yaml.safe_load(smoke.read_text())
    return {
        "name": "mine",
        "tokenizer": shipped["tokenizer"],
        "model": shipped["model"],
        "data": {
            "source": {
                "mine": {"kind": "records", "registry": f"s3://{bucket}/mine/registry.json"}
            },
            "image": {"max_tiles": 1},
            "video": {"max_frames": 4},
        },
        "stages": {
            "see": {
                **common,
                "objective": "next_token",
                "data": {"look": 1.0, "talk": 1.0},
                "trainable": {"llm": 1e-3, "vision": 1e-3, "projector": 1e-3},
                "batch": batch,
                "after": [],
            },
            "hear": {
                **common,
                "objective": "ctc",
                "data": {"hear": 1.0},
                "trainable": {"audio_encoder": 1e-3, "ctc_head": 1e-3},
                "batch": {"global_batch_size": 2},
                "after": [],
            },
        },
    }


def test_each_step_finds_in_the_store_what_it_needs(
    bucket: str, tmp_path: Path, s3_server: S3Server
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe_of(bucket), sort_keys=False))
    subprocess.run(
        [
            *(sys.executable, str(sources() / "pipelines" / "compile.py")),
            *("--recipe", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "compiled")),
        ],
        check=True,
        capture_output=True,
    )
    text = (tmp_path / "compiled" / "mine.yaml").read_text()
    pipeline = next(yaml.safe_load_all(text))
    recipe = pipeline["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    for step in ("data-fetch", "data-validation", "train-see", "train-hear", "evaluate"):
        machine = tmp_path / step
        machine.mkdir()
        (machine / "platform.yaml").write_text("backend: local\n")
        command = command_of(
            pipeline,
            step,
            str(machine),
            recipe=recipe,
            run="first",
            storage_root=f"s3://{bucket}/runs",
            overrides=[],
        )
        done = subprocess.run(
            command,
            cwd=machine,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(machine),
                "VITA_TRAIN_CACHE": str(machine / "cache"),
                "VITA_TRAIN_PLATFORM": str(machine / "platform.yaml"),
                "AWS_ENDPOINT_URL_S3": s3_server.endpoint,
            },
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, step + done.stdout[-3000:] + done.stderr[-3000:]
    store = open_store(f"s3://{bucket}/runs", endpoint=s3_server.endpoint)
    prepared, measured = (read_final(store, f"first/{step}") for step in ("prepare", "evaluate"))
    assert prepared is not None
    assert measured is not None
    assert prepared.metrics["used"] > 30
    assert prepared.metrics["rejected"] == 0
    assert any(name.startswith("hear.test.") for name in measured.metrics)
