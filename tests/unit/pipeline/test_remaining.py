"""From where on a run has something to do, as the first step finds it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vita_train.pipeline.remaining import first_to_do, position
from vita_train.pipeline.step_commit import run_step
from vita_train.pipeline.step_inputs import step_inputs
from vita_train.recipe.load import load_recipe
from vita_train.recipe.selection import Selection, run_steps, stage_graph
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run

ALL = Selection()
KINDS = {
    "data_fetch": "data",
    "prepare": "prepared",
    "preflight": "preflight",
    "evaluate": "evaluation",
    "export": "export",
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has committed everything."""
    run = Run(load_recipe("smoke", [f"storage.root={tmp_path}"]), "r")
    for step in run_steps(run.recipe):
        _do(run, step)
    return run


def _do(run: Run, step: str, content: str = "") -> None:
    def work(digest: str) -> Manifest:
        kind = KINDS.get(step, "model")
        lineage = {"content": dict.fromkeys(run.recipe.data.source, content)}
        made = Manifest(kind=kind, run="r", stage=step, digest=digest, lineage=lineage)
        run.commit(step, made)
        return made

    if step != "report":
        run_step(run, step, ALL, lambda: step_inputs(run, step), work)


def _first(run: Run, selection: Selection = ALL) -> str:
    stages = stage_graph(run.recipe)
    order = ["prepare", "preflight", *stages, "evaluate", "export", "nothing"]
    return order[first_to_do(run, selection, json.dumps(stages))]


def test_a_run_with_everything_committed_has_nothing_to_do(run: Run) -> None:
    assert _first(run) == "nothing"


def test_the_first_step_without_a_commit_for_its_inputs_is_found(run: Run) -> None:
    run.store.delete([run.final_key("3.1")])
    assert _first(run) == "3.1"
    run.store.delete([run.final_key("1.2")])
    assert _first(run) == "1.2"


def test_a_changed_setting_is_something_to_do_where_it_counts(run: Run, tmp_path: Path) -> None:
    longer = load_recipe("smoke", [f"storage.root={tmp_path}", "stages.1.3.steps=7"])
    assert _first(Run(longer, "r")) == "1.3"


def test_a_preflight_alone_is_nothing_to_do_unless_it_is_asked_for_alone(run: Run) -> None:
    run.store.delete([run.final_key("preflight")])
    assert _first(run) == "nothing"
    assert _first(run, Selection.of(run.recipe, "..preflight")) == "preflight"
    run.store.delete([run.final_key("1.2")])
    assert _first(run) == "1.2"


def test_what_was_not_asked_for_is_not_to_do_and_force_does_what_was(run: Run) -> None:
    for step in ("1.1", "2.2"):
        run.store.delete([run.final_key(step)])
    assert _first(run, Selection.of(run.recipe, "2.2")) == "2.2"
    assert _first(run, Selection.of(run.recipe, "data_fetch")) == "nothing"
    assert _first(run, Selection.of(run.recipe, "1.3", force=True)) == "1.3"


def test_places_are_those_of_the_pipeline_though_the_recipe_lacks_stages(run: Run) -> None:
    stages = {"before": (), **stage_graph(run.recipe)}
    run.store.delete([run.final_key("1.1")])
    assert first_to_do(run, ALL, json.dumps(stages)) == position(stages, "1.1")
