"""From where on a run has something to do: what a pipeline passes over."""

from __future__ import annotations

import json
from collections.abc import Iterable

from vita_train.errors import VitaError
from vita_train.pipeline.step_commit import is_committed, log_reused
from vita_train.pipeline.step_inputs import step_inputs
from vita_train.recipe.selection import Selection
from vita_train.runs.run import Run


def position(stages: Iterable[str], step: str) -> int:
    """Return a step's place among those of a pipeline that follow the first.

    Args:
        stages: the pipeline's, in the order they run.
        step: any but the first and the report, which are always done.
    """
    return _following(stages).index(step)


def first_to_do(run: Run, selection: Selection, stages: str) -> int:
    """Return the place of the first step that has something to do, one past the last where none
    has. The first step of a pipeline hands it to the conditions of the others.

    Steps before that are told about as reused. A preflight is nothing to do by itself where stages
    are asked for: it goes with the first that trains. What a step's inputs are is known once all
    before it are committed, so nothing is said of the steps behind.

    Args:
        run, selection: what was asked for.
        stages: the pipeline's stages as JSON, with those that each waits for.
    """
    following, asked_for = _following(json.loads(stages)), selection.steps(run.recipe)
    for place, step in enumerate(following):
        if step not in asked_for:
            continue
        if selection.force or not _is_done(run, step):
            if step == "preflight" and {*asked_for} & {*run.recipe.stages}:
                continue
            return place
        log_reused(run, step)
    return len(following)


def _is_done(run: Run, step: str) -> bool:
    try:
        return is_committed(run, step, step_inputs(run, step))
    except VitaError:  # what is wrong the step itself says
        return False


def _following(stages: Iterable[str]) -> list[str]:
    return ["prepare", "preflight", *stages, "evaluate", "export"]
