"""What a run will write is added up over its stages, and held against the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.data_world import recipe as small_recipe
from tests.helpers.data_world import small_world
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.data.sources.registry import load_registry
from vita_train.data.sources.source import open_splits
from vita_train.errors import UserError
from vita_train.preflight import features
from vita_train.preflight.disk import plan_disk
from vita_train.preflight.features import feature_bytes
from vita_train.preflight.run import _resources
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import Selection
from vita_train.runs.run import Run

MILLION = 1_000_000


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def recipe(root: Path, *settings: str, keep_last: int = 2) -> Recipe:
    kept = f"storage.keep_last={keep_last}"
    return load_recipe("smoke", [f"storage.root={root}", kept, *settings])


def test_every_stage_keeps_its_checkpoints(tmp_path: Path) -> None:
    smoke = recipe(
        tmp_path,
        "stages.1.1.steps=100",
        "stages.1.1.checkpoint_interval=10",
        "stages.1.2.steps=100",
        "stages.1.2.checkpoint_interval=100",
    )
    plan = plan_disk(
        smoke, ["1.1", "1.2"], {"1.1": MILLION, "1.2": 3 * MILLION}, 5 * MILLION, exports=False
    )
    assert plan.checkpoints == 12 * (2 * MILLION + 1 * 3 * MILLION), "1.2 makes one alone"
    assert plan.in_flight == 12 * 3 * MILLION
    assert plan.weights == 4 * 4 * MILLION
    more = recipe(
        tmp_path, "stages.1.1.steps=100", "stages.1.1.checkpoint_interval=10", keep_last=50
    )
    assert (
        plan_disk(more, ["1.1"], {"1.1": MILLION}, 0, exports=False).checkpoints
        == 10 * 12 * MILLION
    )
    assert plan_disk(more, [], {}, MILLION, exports=True).total == 4 * MILLION


def test_half_precision_stands_beside_its_master_copy(tmp_path: Path) -> None:
    half = recipe(
        tmp_path, "model.dtype=bfloat16", "stages.1.1.steps=10", "stages.1.1.checkpoint_interval=10"
    )
    plan = plan_disk(half, ["1.1"], {"1.1": MILLION}, MILLION, exports=True)
    assert (plan.checkpoints, plan.weights) == (14 * MILLION, 2 * 2 * MILLION)


def test_a_disk_too_small_for_all_stages_is_told_with_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(recipe(tmp_path, "stages.1.1.checkpoint_interval=1", keep_last=1000), "r")
    run.dir.mkdir(parents=True)
    parameters = dict.fromkeys(
        (
            "llm",
            "vision",
            "projector",
            "audio_encoder",
            "ctc_head",
            "audio_adapter",
            "audio_prompt",
            "state_head",
            "codec",
            "discriminators",
            "speech_decoder",
        ),
        MILLION,
    )
    need = (
        plan_disk(
            run.recipe,
            list(run.recipe.stages),
            {stage: MILLION * len(spec.trainable) for stage, spec in run.recipe.stages.items()},
            sum(parameters.values()),
            exports=True,
        ).total
        + 2 * 2**30
    )
    for free, fits in ((need + 1, True), (need - 1, False)):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path, free=free: Usage(need * 2, need * 2 - free, free)
        )
        if fits:
            assert "of disk" in _resources(run, Selection(), parameters, {})
            continue
        with pytest.raises(UserError) as caught:
            _resources(run, Selection(), parameters, {})
        assert "storage.keep_last (1000 now)" in caught.value.remedy
        assert caught.value.where == str(run.dir)
        only = Selection.parse(run.recipe, "1.1", "", "", False)
        assert "of disk" in _resources(run, only, parameters, {}), "one stage still fits"


def test_features_are_counted_as_they_will_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = small_world(tmp_path, 12)
    made = small_recipe(data={"audio": {"store_features": True}, "video": {"max_frames": 4}})
    splits = open_splits(registry, load_registry(registry))
    prepare(made, registry, tmp_path / "corpus", progress=[].append)
    corpus = Corpus.open(tmp_path / "corpus")
    stored = sum(
        (tmp_path / "corpus" / dataset / split / "features.bin").stat().st_size
        for dataset, names in corpus.datasets.items()
        for split in names
    )
    assert stored > 0
    assert feature_bytes(made, splits) == pytest.approx(stored, rel=0.1)
    monkeypatch.setattr(features, "_RECORDS", 4)  # the others are taken to be like these
    assert feature_bytes(made, splits) == pytest.approx(stored, rel=0.25)
    assert feature_bytes(small_recipe(), splits) == 0


def test_features_count_towards_the_disk(tmp_path: Path) -> None:
    smoke = recipe(tmp_path)
    without = plan_disk(smoke, [], {}, 0, exports=False)
    assert plan_disk(smoke, [], {}, 0, exports=False, features=123).total == without.total + 123
