"""A run whose media lie in shards: one machine prepares, another trains without the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.data_world import recipe, small_world
from tests.helpers.s3_server import S3Server
from tests.helpers.stores import s3_store
from vita_train.data.index.corpus import open_corpus
from vita_train.pipeline.steps import fetch_step, prepare_step
from vita_train.recipe.schema import Recipe
from vita_train.runs.manifest import content_of
from vita_train.runs.run import Run
from vita_train.storage.s3 import S3Store

__all__ = ["s3_store"]


def recipe_of(store: S3Store, endpoint: str, registry: Path, media: str) -> Recipe:
    return recipe(
        data={
            "source": {"own": {"kind": "records", "registry": str(registry)}},
            "image": {"max_tiles": 4},
            "video": {"max_frames": 4},
        },
        storage={"root": store.uri, "endpoint": endpoint, "media": media},
    )


def test_a_node_reads_media_that_it_never_downloaded_as_a_whole(
    tmp_path: Path, s3_store: S3Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = small_world(tmp_path / "world", 4)
    plain = Run(recipe_of(s3_store, s3_server.endpoint, registry, "in_place"), "r")
    packed = Run(recipe_of(s3_store, s3_server.endpoint, registry, "shards"), "r")
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "one"))
    fetch_step(plain)
    before = prepare_step(plain)
    after = prepare_step(packed)
    assert before is not None
    assert after is not None
    assert before.digest != after.digest
    # Nothing that was trained on the one is trained again on the other.
    assert content_of(before, ["look", "hear"]) == content_of(after, ["look", "hear"])
    local = open_corpus(plain).index("look", "train")
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "two"))
    other = Run(packed.recipe, "r")
    (tmp_path / "world").rename(tmp_path / "gone")
    index = open_corpus(other).index("look", "train")
    assert not other.raw_dir.exists()
    (tmp_path / "gone").rename(tmp_path / "world")
    for row in range(len(local)):
        np.testing.assert_array_equal(
            local.sample(row).load_pixels(), index.sample(row).load_pixels()
        )
