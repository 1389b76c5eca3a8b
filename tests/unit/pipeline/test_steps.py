"""Steps: done once, done again when an input changes, and never half."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from tests.helpers.errors import raises_code
from tests.helpers.s3_server import S3Server
from vita_train.errors import DataError, UserError
from vita_train.pipeline import steps
from vita_train.pipeline.step_commit import run_step
from vita_train.pipeline.step_inputs import source_digests, template_text
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import Selection
from vita_train.recipe.sources import RecordsSource
from vita_train.recipe.stage import Gate
from vita_train.runs.final import read_final, write_final
from vita_train.runs.manifest import STEP_DIGEST, Manifest
from vita_train.runs.run import Run
from vita_train.storage.factory import open_store


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe("smoke", [f"storage.root={tmp_path}"])


class Work:
    """Counts how often the work of a step is done."""

    def __init__(self, error: Exception | None = None) -> None:
        self.times = 0
        self.error = error

    def __call__(self, digest: str) -> Manifest:
        self.times += 1
        if self.error is not None:
            raise self.error
        return Manifest(
            kind="data",
            run="r",
            stage="data_fetch",
            digest=digest,
            metrics={"n": float(self.times)},
        )


def _do(
    recipe: Recipe,
    work: Work,
    inputs: Mapping[str, Any] | None = None,
    selection: Selection = steps.ALL,
) -> Manifest | None:
    return run_step(Run(recipe, "r"), "data_fetch", selection, lambda: inputs or {}, work)


def _progress(recipe: Recipe) -> dict[str, Any]:
    return json.loads(open_store(recipe.storage.root).read("r/data_fetch/progress.json"))


def test_why_a_step_failed_is_told_even_when_the_store_cannot_be_written(
    recipe: Recipe, tmp_path: Path
) -> None:
    def work(digest: str) -> Manifest:
        shutil.rmtree(tmp_path / "r")
        (tmp_path / "r").write_text("a file where the run's folder was")
        raise DataError("row 7 has no image")

    with pytest.raises(DataError, match="row 7 has no image"):
        run_step(Run(recipe, "r"), "data_fetch", steps.ALL, dict, work)


def test_same_inputs_return_the_commit_without_work(recipe: Recipe) -> None:
    work = Work()
    first = _do(recipe, work, {"a": 1})
    assert _do(recipe, work, {"a": 1}) == first
    assert work.times == 1
    assert _progress(recipe)["state"] == "done"


def test_other_inputs_or_force_do_the_work_again(recipe: Recipe) -> None:
    work = Work()
    _do(recipe, work, {"a": 1})
    _do(recipe, work, {"a": 2})
    assert work.times == 2
    _do(recipe, work, {"a": 2}, Selection(force=True))
    assert work.times == 3


def test_failure_leaves_no_commit_and_a_reason(recipe: Recipe) -> None:
    _do(recipe, Work(), {"a": 1})
    with pytest.raises(UserError):
        _do(recipe, Work(UserError("no images", where="here", remedy="add some")), {"a": 2})
    assert read_final(open_store(recipe.storage.root), "r/data_fetch") is None
    progress = _progress(recipe)
    assert progress["state"] == "failed"
    assert progress["error"] == {
        "code": 2,
        "error": "",
        "what": "no images",
        "where": "here",
        "remedy": "add some",
    }


def test_unpicked_step_returns_its_commit_or_nothing_and_reads_no_inputs(recipe: Recipe) -> None:
    other = Selection(frozenset({"report"}))

    def inputs() -> dict[str, Any]:
        raise AssertionError("an unpicked step has no inputs")

    work = Work()
    assert run_step(Run(recipe, "r"), "data_fetch", other, inputs, work) is None
    done = _do(recipe, work)
    assert run_step(Run(recipe, "r"), "data_fetch", other, inputs, work) == done
    assert work.times == 1


def test_missing_input_names_the_step_and_the_command(recipe: Recipe) -> None:
    with raises_code(UserError, "VT-USE-068", "1.1") as caught:
        steps.train_step(Run(recipe, "r"), "1.1")
    assert "vita-train run smoke --run r --until prepare" in str(caught.value)


def test_stage_that_the_recipe_leaves_out_is_passed_over(recipe: Recipe) -> None:
    without = recipe.model_copy(update={"stages": {"1.1": recipe.stages["1.1"]}})
    assert steps.train_step(Run(without, "r"), "0.llm") is None


def _finish(recipe: Recipe, step: str, digest: str, **content: str) -> None:
    kind = "prepared" if step == "prepare" else "model"
    manifest = Manifest(kind=kind, run="r", stage=step, digest=digest, lineage={"content": content})
    write_final(open_store(recipe.storage.root), f"r/{step}", manifest)


def test_stage_is_launched_again_only_when_what_it_reads_changes(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = []

    def launch(run: Run, stage: str, digest: str, task: object) -> Manifest:
        launched.append(stage)
        manifest = Manifest(
            kind="model", run=run.name, stage=stage, digest="weights", lineage={STEP_DIGEST: digest}
        )
        run.commit(stage, manifest)
        return manifest

    monkeypatch.setattr(steps, "launch_stage", launch)
    _finish(recipe, "prepare", "one", caption="rows", vqa="rows")
    for step in ("0.llm", "0.vision", "2.1a"):
        _finish(recipe, step, "one")
    for _ in range(2):
        manifest = steps.train_step(Run(recipe, "r"), "1.1")
    assert manifest is not None
    assert manifest.digest == "weights"
    assert launched == ["1.1"]
    _finish(recipe, "2.1a", "two")
    steps.train_step(Run(recipe, "r"), "1.1")
    assert launched == ["1.1"], "1.1 does not read the recogniser"
    _finish(recipe, "prepare", "two", caption="rows", vqa="other rows")
    steps.train_step(Run(recipe, "r"), "1.1")
    assert launched == ["1.1"], "1.1 trains on captions alone, and they are the same"
    _finish(recipe, "0.vision", "two")
    steps.train_step(Run(recipe, "r"), "1.1")
    assert launched == ["1.1", "1.1"]
    _finish(recipe, "prepare", "two", caption="other rows")
    steps.train_step(Run(recipe, "r"), "1.1")
    assert launched == ["1.1", "1.1", "1.1"]


def test_edited_records_are_noticed(tmp_path: Path) -> None:
    records = tmp_path / "records.json"
    records.write_text("[]")
    registry = tmp_path / "registry.json"
    registry.write_text(
        json.dumps(
            {
                "format": "vita-train/registry/v1",
                "datasets": {"c": {"task": "caption", "train": {"records": "records.json"}}},
            }
        )
    )
    own = RecordsSource(registry=str(registry))
    data = load_recipe("smoke").data.model_copy(update={"source": {"own": own}})
    recipe = load_recipe("smoke").model_copy(update={"data": data})
    before = source_digests(recipe)
    records.write_text("[{}]")
    assert source_digests(recipe) != before


def test_an_edited_template_is_noticed(tmp_path: Path) -> None:
    shipped = (
        Path(steps.__file__).parents[1] / "data" / "templates" / "qwen2p5_instruct.yaml"
    ).read_text()
    template = tmp_path / "mine.yaml"
    template.write_text(shipped)
    recipe = load_recipe("smoke", [f"data.template={template}"])
    before = template_text(recipe)
    template.write_text(shipped.replace("helpfully", "briefly"))
    assert before == template_text(load_recipe("smoke"))
    assert template_text(recipe) != before


def test_results_of_a_remote_run_are_stored_there(
    tmp_path: Path, s3_server: S3Server, s3_credentials: None
) -> None:
    boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1").create_bucket(
        Bucket="results"
    )
    made = tmp_path / "model.safetensors"
    made.write_bytes(b"weights")
    here = load_recipe("smoke", [f"storage.root={tmp_path}"])
    there = load_recipe(
        "smoke", ["storage.root=s3://results/runs", f"storage.endpoint={s3_server.endpoint}"]
    )
    assert steps._stored(Run(here, "r"), made, "export", "model", "model.safetensors").uri == str(
        made
    )
    reference = steps._stored(Run(there, "r"), made, "export", "model", "model.safetensors")
    assert reference.uri == "s3://results/runs/r/export/model/model.safetensors"
    assert (
        open_store("s3://results/runs", endpoint=s3_server.endpoint).read(
            "r/export/model/model.safetensors"
        )
        == b"weights"
    )


@pytest.mark.parametrize("name", ["../up", "a/b", "-x", "Ä", ".hidden", "a" * 64, "a" * 300])
def test_names_that_are_no_single_path_part_are_refused(recipe: Recipe, name: str) -> None:
    with pytest.raises(UserError):
        Run(recipe, name)


def test_publish_hands_on_manifest_headlines_and_a_summary(recipe: Recipe, tmp_path: Path) -> None:
    logged: dict[str, float] = {}
    artifact = SimpleNamespace(path=str(tmp_path / "a"), metadata={})
    summary = SimpleNamespace(path=str(tmp_path / "b"))
    gates = {"x.accuracy": Gate(min=0.4), "y.wer": Gate(max=0.1)}
    spec = recipe.stages["1.1"].model_copy(update={"gates": gates, "accept": True})
    run = Run(recipe.model_copy(update={"stages": {**recipe.stages, "1.1": spec}}), "r")
    manifest = Manifest(
        kind="model",
        run="r",
        stage="1.1",
        digest="d",
        metrics={"x.accuracy": 0.5, "y.wer": 0.25, "dev.loss": 1.5, "z.other": 0.1},
        lineage={"seconds": 5400.0, "world": 8, "trained": {"projector": 107_840}, "restarts": 1},
    )
    metrics = SimpleNamespace(log_metric=logged.__setitem__)
    steps.publish(run, manifest, artifact, metrics, summary)
    assert Manifest.model_validate_json(Path(artifact.path).read_text()) == manifest
    assert logged == {"x.accuracy": 0.5, "y.wer": 0.25, "dev.loss": 1.5}
    text = Path(summary.path).read_text()
    assert "| x.accuracy | 0.5 | at least 0.4 | met |" in text
    assert "| y.wer | 0.25 | at most 0.1 | **missed, accepted** |" in text
    assert "| projector | 107,840 |" in text
    assert "1.5 h of training on 8 ranks, 12.0 h of ranks together; 1 restarts" in text
    steps.publish(run, None, artifact, metrics, summary)
    assert json.loads(Path(artifact.path).read_text()) is None


def test_no_torch_before_there_is_work() -> None:
    code = (
        "import sys, vita_train.pipeline.steps, vita_train.pipeline.local.run, "
        "vita_train.preflight.run; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
