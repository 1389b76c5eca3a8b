"""The examples do what their pages say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import load_recipe
from vita_train.runs.final import read_final
from vita_train.storage.factory import open_store

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def vita(folder: Path, *arguments: str) -> str:
    return python(folder, "-m", "vita_train.cli.main", *arguments).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with the examples in it."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    return tmp_path


@pytest.mark.parametrize("name", ["own_data", "lora"])
def test_recipes_and_records_are_right(name: str) -> None:
    recipe = load_recipe(str(EXAMPLES / name / "recipe.yaml"))
    check_recipe(recipe)
    registry = recipe.data.source["mine"].registry
    assert Path(registry).is_file()


def test_a_registry_that_is_typed_is_looked_for_where_it_is_typed(folder: Path) -> None:
    shutil.move(folder / "examples" / "own_data" / "registry.yaml", folder / "mine.yaml")
    text = (folder / "mine.yaml").read_text()
    for name in ("images", "recordings", "captions", "questions", "announcements", "talk"):
        text = text.replace(f": {name}", f": examples/own_data/{name}")
    (folder / "mine.yaml").write_text(text)
    setting = ["--set", "data.source.mine.registry=mine.yaml"]
    said = vita(folder, "run", "examples/own_data/recipe.yaml", *setting, "--until", "data_fetch")
    assert "data_fetch" in said
    assert read_final(open_store(str(folder / "runs")), "own-data/data_fetch") is not None


def test_every_record_of_own_data_can_be_used(folder: Path) -> None:
    said = vita(
        folder, "data", "check", "examples/own_data/recipe.yaml", "examples/own_data/registry.yaml"
    )
    assert "182 of 182 records can be used, 0 rejected" in said


def test_the_chart_takes_the_values_of_the_cluster() -> None:
    values = yaml.safe_load((EXAMPLES / "cluster" / "values.yaml").read_text())
    schema = json.loads((ROOT / "charts" / "vita-training" / "values.schema.json").read_text())
    jsonschema.validate(values, schema)


def test_the_pipeline_of_own_data_has_its_stages(folder: Path) -> None:
    python(
        ROOT,
        "pipelines/compile.py",
        "--recipe",
        "examples/own_data/recipe.yaml",
        "--out",
        str(folder / "build"),
    )
    (pipeline,) = (folder / "build").glob("*.yaml")
    tasks = next(yaml.safe_load_all(pipeline.read_text()))
    text = json.dumps(tasks)
    assert all(stage in text for stage in ("language", "photographs", "sounds", "assistant"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_own_data_is_learnt_and_adapters_teach_it_more(folder: Path) -> None:
    vita(folder, "run", "examples/own_data/recipe.yaml")
    measured = read_final(open_store(str(folder / "runs")), "own-data/evaluate")
    assert measured is not None
    assert measured.metrics["announcements.test.wer"] <= 0.1
    assert measured.metrics["announcements.test.llm_wer"] <= 0.1
    assert measured.metrics["questions.test.accuracy"] >= 0.7  # in words that were not trained on
    ask = ["--text", "What colour are its eyes?", "--image", "examples/own_data/images/cat.jpg"]
    assert (
        vita(folder, "chat", "--checkpoint", "runs/own-data/export/model", *ask).strip() == "Green."
    )

    vita(folder, "run", "examples/lora/recipe.yaml")
    measured = read_final(open_store(str(folder / "runs")), "own-data-lora/evaluate")
    assert measured is not None
    assert measured.metrics["one_word.test.accuracy"] >= 0.9
    vita(folder, "model", "merge-lora", "runs/own-data-lora", "--out", "merged")
    vita(folder, "model", "export", "runs/own-data-lora", "--to", "adapter", "--out", "adapter")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_python_trains_and_asks(folder: Path) -> None:
    said = python(folder, "examples/python_api/train.py").stdout
    assert said.splitlines()[-1] == "Green."
