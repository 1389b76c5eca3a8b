"""The preflight between the prepared data and the first stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.data_world import recipe, small_world
from tests.helpers.errors import raises_code
from vita_train.data.prepare.run import prepare
from vita_train.errors import UserError
from vita_train.preflight.step import STEP, preflight_step
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import Selection
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with its data prepared, and one stage on recordings."""
    made = recipe().model_dump(mode="json")
    made["storage"]["root"] = str(tmp_path / "runs")
    made["stages"] = {"2.1a": made["stages"]["2.1a"] | {"after": []}}
    made["stages"]["2.1a"]["trainable"] |= {"audio_encoder": 1e-3}
    made["stages"]["2.1a"]["batch"]["global_batch_size"] = 2
    run = Run(Recipe.model_validate(made), "r")
    run.corpus_dir.parent.mkdir(parents=True)
    prepare(run.recipe, small_world(tmp_path, 4), run.corpus_dir, progress=[].append)
    run.commit("prepare", Manifest(kind="prepared", run="r", stage="prepare", digest="d"))
    return run


def test_a_batch_of_every_mix_is_trained_before_a_stage_and_the_verdict_is_kept(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    made = preflight_step(run, page=page)
    assert made is not None
    assert made == run.final(STEP)
    assert made.metrics["warnings"] == len(made.lineage["warnings"])
    assert "1 mixes of modalities in 1 stages train" in page.read_text()
    capsys.readouterr()
    assert preflight_step(run) == made
    assert "checks passed" not in capsys.readouterr().out, "nothing is checked twice"
    run.commit("prepare", Manifest(kind="prepared", run="r", stage="prepare", digest="other"))
    (tmp_path / "sounds" / "s0.wav").unlink()
    launch = run.recipe.launch.model_copy(update={"dry_batches": False})
    run = Run(run.recipe.model_copy(update={"launch": launch}), "r")
    with raises_code(UserError, "VT-USE-028", "supervision"):
        preflight_step(run, Selection.parse(run.recipe, only="2.1a"), page)
    assert run.final(STEP) is None
    assert "refused" in page.read_text()
    assert "s0.wav" in page.read_text()
