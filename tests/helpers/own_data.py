"""The user's own data in an object store, and a recipe of two stages on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import yaml

from tests.helpers.data_world import small_world
from vita_train.recipe.presets import preset_path


def upload_world(at: Path, bucket: str, prefix: str, endpoint: str) -> str:
    """Write the small world, put its records and media into a bucket, and return the URI of its
    registry."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    world = small_world(at).parent
    for path in sorted(world.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(world).as_posix()}")
    return f"s3://{bucket}/{prefix}/registry.json"


def own_recipe(registry: str) -> dict[str, Any]:
    """A recipe of two stages on the records of a registry."""
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
            "source": {"mine": {"kind": "records", "registry": registry}},
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
