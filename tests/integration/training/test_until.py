"""Stages that train until a measure is met, that miss a gate, are extended, or accepted: whole
stages of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.errors import raises_code
from tests.helpers.evaluation_world import small_corpus, small_recipe
from tests.integration.training import ranks
from vita_train.errors import COMMAND, GateError, RecipeError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.extension import extended
from vita_train.recipe.schema import Recipe, StorageSpec
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run
from vita_train.training.stage import run_stage

RUN = "r"
pytestmark = pytest.mark.timeout(1200)
TOY_UNTIL = {
    "max_steps": 14,
    "until": {"dev.loss": {"max": 8.5}},
    "check_interval": 2,
    "optim": {"decay": 4},
}


def recipe_of(root: Path, **stage: Any) -> Recipe:
    """A run of one stage that learns a few answers by heart."""
    spec = {
        "objective": "next_token",
        "data": {"textqa": 1.0},
        "trainable": {"llm": 2e-2},
        "batch": {"global_batch_size": 4, "seq_len": 128},
        "checkpoint_interval": 5,
        "optim": {"warmup": 2},
        "eval": {"batches": 1, "max_samples": 8},
        **stage,
    }
    return small_recipe(storage=StorageSpec(root=str(root)).model_dump(), stages={"0.llm": spec})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data are prepared."""
    root = tmp_path_factory.mktemp("runs")
    recipe = recipe_of(root, steps=1)
    small_corpus(root / RUN / "prepare", recipe, records=8)
    Run(recipe, RUN).commit(
        "prepare", Manifest(kind="prepared", run=RUN, stage="prepare", digest="d")
    )
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A run of its own."""
    return Path(shutil.copytree(prepared, tmp_path / "runs"))


def events(root: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (root / RUN / "0.llm" / "events.jsonl").read_text().splitlines()
    ]


def trained_steps(root: Path) -> list[int]:
    return [row["step"] for row in events(root) if "lr_factor" in row]


def manifest_of(recipe: Recipe) -> Manifest:
    found = Run(recipe, RUN).final("0.llm")
    assert found is not None
    return found


def test_a_stage_trains_until_its_dataset_is_learnt(root: Path) -> None:
    recipe = recipe_of(
        root,
        until={"textqa.dev.accuracy": {"min": 0.4}},
        max_steps=400,
        check_interval=5,
        optim={"warmup": 2, "decay": 6},
        gates={"textqa.test.accuracy": {"min": 0.4}},
    )
    check_recipe(recipe)
    run_stage(Run(recipe, RUN), "0.llm")
    lineage = manifest_of(recipe).lineage
    met = lineage["samples"]["until_met"]["stage"]
    taken = {
        row["step"]: row["textqa.dev.accuracy"]
        for row in events(root)
        if "textqa.dev.accuracy" in row
    }
    assert list(taken) == list(range(5, met + 1, 5))
    assert taken[met] >= 0.4 > max(value for step, value in taken.items() if step < met)
    assert trained_steps(root)[-1] == lineage["samples"]["steps"] == met + 6
    factors = {row["step"]: row["lr_factor"] for row in events(root) if "lr_factor" in row}
    assert all(factors[step] == 1.0 for step in range(2, met + 2))
    assert factors[met + 6] < 0.1


def test_a_missed_gate_names_the_way_on_and_an_extension_trains_only_what_is_new(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMAND, "vita-train run mine.yaml --run r")
    gates = {"textqa.test.accuracy": {"min": 0.25}}
    recipe = recipe_of(root, steps=6, gates=gates)
    with pytest.raises(GateError) as missed:
        run_stage(Run(recipe, RUN), "0.llm")
    assert "textqa.test.accuracy is 0" in missed.value.what
    assert "vita-train run mine.yaml --run r --extend 0.llm=20" in missed.value.remedy
    assert "vita-train run mine.yaml --run r --accept 0.llm" in missed.value.remedy
    first = events(root)
    longer = extended(recipe, ["0.llm=90"], [])
    run_stage(Run(longer, RUN), "0.llm")
    assert events(root)[: len(first)] == first
    assert trained_steps(root) == list(range(1, 97))
    manifest = manifest_of(longer)
    assert manifest.metrics["textqa.test.accuracy"] >= 0.25
    assert manifest.lineage["samples"]["extended_by"] == [90]
    # Whoever knew from the start that it takes longer gets the same weights.
    fresh = recipe_of(root.parent / "fresh", steps=6, gates=gates)
    shutil.copytree(root / RUN / "prepare", root.parent / "fresh" / RUN / "prepare")
    run_stage(Run(extended(fresh, ["0.llm=90"], []), RUN), "0.llm")
    assert [file.sha256 for file in manifest_of(fresh).modules["llm"].files] == [
        file.sha256 for file in manifest.modules["llm"].files
    ]


def test_an_accepted_stage_is_not_trained_again_and_is_marked(root: Path) -> None:
    recipe = recipe_of(root, steps=6, gates={"textqa.test.accuracy": {"min": 0.99}})
    with pytest.raises(GateError) as missed:
        run_stage(Run(recipe, RUN), "0.llm")
    assert "stages.0.llm.extend=[20]" in missed.value.remedy
    first = events(root)
    accepted = extended(recipe, [], ["0.llm"])
    run_stage(Run(accepted, RUN), "0.llm")
    assert events(root) == first
    assert manifest_of(accepted).lineage["accepted"] == [
        str(missed.value.what).removeprefix("exit gate not met: ")
    ]


def test_a_checkpoint_of_another_extension_is_left_aside(root: Path) -> None:
    recipe = recipe_of(root, steps=6)
    run_stage(Run(extended(recipe, ["0.llm=9"], []), RUN), "0.llm")
    other = extended(recipe, ["0.llm=4"], [])
    run_stage(Run(other, RUN), "0.llm")
    assert trained_steps(root) == list(range(1, 11))
    assert manifest_of(other).lineage["samples"]["steps"] == 10


@pytest.mark.parametrize("stop", [False, True])
def test_a_flat_loss_is_warned_about_or_ends_the_stage(
    root: Path, stop: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(
        root,
        steps=12,
        trainable={"llm": 1e-9},
        flat={"steps": 4, "tolerance": 0.5, "stop": stop},
    )
    run_stage(Run(recipe, RUN), "0.llm")
    lineage = manifest_of(recipe).lineage
    assert trained_steps(root)[-1] == lineage["samples"]["steps"] == (9 if stop else 12)
    assert lineage["samples"]["until_met"] == ({"flat": 9} if stop else {})
    assert "warning: step 9: the loss has not fallen below" in capsys.readouterr().err
    progress = json.loads((root / RUN / "0.llm" / "progress.json").read_text())
    assert "since step 5" in progress["flat"]
    assert all(
        {"memory_now_gib", "cpu_cores"} <= row.keys() for row in events(root) if "loss" in row
    )
    # A longer stage is begun where the loss was found flat, with another schedule.
    if stop:
        longer = extended(recipe, ["0.llm=3"], [])
        run_stage(Run(longer, RUN), "0.llm")
        assert trained_steps(root) == list(range(1, 13))


@pytest.mark.parametrize("name", ["caption.dev.attributes", "textqa.test.accuracy"])
def test_measures_of_other_data_are_refused(root: Path, name: str) -> None:
    with raises_code(RecipeError, "VT-RECIPE-027", "textqa"):
        check_recipe(recipe_of(root, until={name: {"min": 0.5}}, max_steps=10))


def test_a_measure_that_cannot_be_taken_is_refused_before_the_first_step(root: Path) -> None:
    recipe = recipe_of(root, until={"textqa.dev.wer": {"min": 0.5}}, max_steps=10)
    with raises_code(RecipeError, "VT-RECIPE-061", "textqa.dev.accuracy"):
        run_stage(Run(recipe, RUN), "0.llm")
    assert not (root / RUN / "0.llm" / "events.jsonl").exists()


def test_no_process_can_measure_weights_that_are_spread_out(root: Path) -> None:
    spread = {
        "until": {"textqa.dev.accuracy": {"min": 0.5}},
        "max_steps": 10,
        "engine": {"kind": "fsdp2"},
    }
    with raises_code(RecipeError, "VT-RECIPE-027", "textqa.dev.accuracy", "dev.loss"):
        check_recipe(recipe_of(root, **spread))
    check_recipe(recipe_of(root, **{**spread, "until": {"dev.loss": {"max": 1.0}}}))


def test_two_ranks_find_the_same_end_and_a_killed_run_too(tmp_path: Path) -> None:
    code, output = ranks.train(tmp_path / "whole", {"stage": TOY_UNTIL})
    assert code == 0, output[-4000:]
    whole = ranks.losses(tmp_path / "whole")
    assert max(whole) < 14
    root = tmp_path / "killed"
    # Killed within the decay: that it has begun is known from the checkpoint alone.
    code, _ = ranks.train(
        root, {"stage": TOY_UNTIL, "fault": {"kind": "kill", "step": max(whole) - 2, "rank": 1}}
    )
    assert code != 0
    code, output = ranks.train(root, {"stage": TOY_UNTIL})
    assert code == 0, output[-4000:]
    assert ranks.losses(root) == whole
    assert ranks.batches(root) == ranks.batches(tmp_path / "whole")
