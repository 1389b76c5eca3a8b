"""What runs locally is the compiled pipeline, less what was not asked for."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from vita_train.pipeline.local.pruned import pruned
from vita_train.pipeline.local.run import compiled_pipeline
from vita_train.recipe.selection import STEPS

TRAINING = "comp-exit-handler-1"


def _tasks(*picked: str) -> dict[str, Any]:
    pipeline = next(yaml.safe_load_all(pruned(compiled_pipeline(), picked)))
    assert set(pipeline["root"]["dag"]["tasks"]) == {"exit-handler-1", "report"}
    return dict(pipeline["components"][TRAINING]["dag"]["tasks"])


def test_a_whole_run_is_the_compiled_pipeline() -> None:
    whole = list(yaml.safe_load_all(compiled_pipeline().read_text()))
    assert list(yaml.safe_load_all(pruned(compiled_pipeline(), STEPS))) == whole


@pytest.mark.parametrize("picked", [
    ("data_fetch", "prepare"), ("2.2",), ("prepare", "1.1", "2.2", "export"), ("1.2", "evaluate", "report")])
def test_the_picked_steps_run_in_the_order_they_had(picked: tuple[str, ...]) -> None:
    tasks = _tasks(*picked)

    def before(name: str) -> set[str]:
        return {one for other in tasks[name].get("dependentTasks", ()) for one in {other, *before(other)}}

    def step(name: str) -> str:
        return str(tasks[name]["taskInfo"]["name"]).split()[0]

    ordered = [step(name) for name in sorted(tasks, key=lambda name: len(before(name)))]
    assert ordered == [one for one in picked if one != "report"]
    assert sorted(len(before(name)) for name in tasks) == list(range(len(tasks))), "each after all before it"


def test_what_came_from_a_step_that_is_left_out_is_not_waited_for() -> None:
    tasks = _tasks("prepare", "2.2")
    assert "artifacts" not in tasks["data-validation"]["inputs"]
    assert set(tasks["sft"]["inputs"]["artifacts"]) == {"corpus"}


def test_a_report_alone_has_a_pipeline_before_it() -> None:
    assert list(_tasks("report")) == ["data-fetch"]
