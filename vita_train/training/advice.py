"""What a stage that missed a gate tells its reader: how it moved lately, and the commands that go
on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from vita_train.errors import COMMAND
from vita_train.recipe.schema import Recipe

#: Values of a measure that are shown.
_SHOWN = 4
#: Parts of the stage that the training loss is averaged over where nothing else is known.
_PARTS = 10


def extension_advice(recipe: Recipe, stage: str) -> str:
    """Return how to train a stage longer, or go on without, as commands to paste where that is
    known."""
    spec = recipe.stages[stage]
    # Three tenths more, in tens
    more = max(20, int(0.03 * (spec.most_steps or 1000)) * 10)
    command = os.environ.get(COMMAND)
    if command is None:
        return (
            f"train on from the last checkpoint with the setting stages.{stage}.extend="
            f"{[*spec.extend, more]}, or go on in spite of it with stages.{stage}.accept=true"
        )
    return (
        f"train on from the last checkpoint: {command} --extend {stage}={more}; or go on in spite "
        f"of it: "
        f"{command} --accept {stage}"
    )


def recent_trend(events: Path, measures: Sequence[str]) -> str:
    """Return how a stage moved lately, as far as its curves tell; empty if they do not.

    Args:
        events: the stage's ``events.jsonl``.
        measures: the test measures that missed; their dev counterparts are shown if they were
            taken.
    """
    rows = _rows(events)
    for measure in (*(_dev(measure) for measure in measures), "dev.loss"):
        taken = [(row["step"], row[measure]) for row in rows if measure in row]
        if len(taken) > 1:
            shown = ", ".join(f"{value:.4g} at step {step}" for step, value in taken[-_SHOWN:])
            return f"{measure} lately: {shown};"
    logged = [(row["step"], row["loss"]) for row in rows if isinstance(row.get("loss"), float)]
    part = len(logged) // _PARTS  # lines, of which a long stage has one for several steps
    if part == 0:
        return ""
    before, last = (
        sum(loss for _, loss in lines) / part
        for lines in (logged[-2 * part : -part], logged[-part:])
    )
    return (
        f"the training loss went from {before:.4g} to {last:.4g} since step {logged[-2 * part][0]};"
    )


def _dev(measure: str) -> str:
    dataset, _, name = measure.partition(".")
    return f"{dataset}.dev.{name.rpartition('.')[2]}"


def _rows(events: Path) -> list[dict[str, float]]:
    if not events.exists():
        return []
    return [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
