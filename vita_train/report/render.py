"""A run as one page: everything inlined, nothing fetched, nothing from the data trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_train.errors import UserError
from vita_train.evaluation.forgetting import forgetting_table
from vita_train.recipe.modules import MODULES
from vita_train.report import words
from vita_train.report.collect import (
    STEP_TITLES,
    RunReader,
    RunView,
    StageView,
    parameter_counts,
    read_run,
)
from vita_train.report.curves import curve_panel, series
from vita_train.report.failure import Failure, failure_of
from vita_train.report.ledger import ledger_rows
from vita_train.report.lineage import lineage_rows
from vita_train.report.page import render_page
from vita_train.report.samples import sorted_samples
from vita_train.storage.base import Store
from vita_train.storage.factory import open_store

REPORT_KEY = "report/report.html"


def render_report(run_dir: Path, *, store: Store | None = None) -> Path:
    """Write a run's report to ``report/report.html`` under its local directory and return the path.

    Works on runs that are unfinished or failed, and shows how far they came.

    Args:
        run_dir: the run's directory on this machine.
        store: where its manifests are, if not in that directory: a run on S3 keeps only its data
            and logs here.

    Raises:
        UserError: there is no run.
    """
    local = open_store(str(run_dir))
    local.write(REPORT_KEY, build_report(*([store] if store else []), local).encode())
    return Path(run_dir) / REPORT_KEY


def build_report(*stores: Store) -> str:
    """Return the page of the run in one or more stores; a file is taken from the first that has it.

    Raises:
        UserError: they hold no run.
    """
    if not any(store.exists("recipe.yaml") for store in stores):
        raise UserError(
            "there is no run here",
            code="VT-USE-094",
            where=stores[0].uri,
            remedy="give the directory <storage.root>/<run>",
        )
    reader = RunReader(stores)
    run = read_run(reader)
    failure = failure_of(run)
    return render_page(
        "report.html.j2",
        run=run,
        failure=failure,
        modules=_columns(run),
        verdict=_verdict(run),
        headlines=_headlines(run),
        rungs=[_rung(stage, failure) for stage in run.stages],
        panels=[panel for stage in run.stages if (panel := curve_panel(stage)) is not None],
        forgetting=_forgetting(run),
        samples=sorted_samples(run, reader),
        every_truth=False,
        pace=[row for stage in run.stages if (row := _pace(stage)) is not None],
        ledger=ledger_rows(run.ledger),
        lineage=lineage_rows(run),
    )


def _columns(run: RunView) -> list[tuple[str, str]]:
    """Return the modules of the ladder's table: those that some stage trains, or used frozen."""
    used = {name for stage in run.stages for part in parameter_counts(stage) for name in part}
    return [(name, words.MODULE_WORDS[name]) for name in MODULES if name in used]


@dataclass(frozen=True)
class Verdict:
    """The page's first sentence and its colour: good, bad or busy."""

    tone: str
    text: str


def _verdict(run: RunView) -> Verdict:
    done = [stage for stage in run.stages if stage.state == "done"]
    failed = [stage for stage in run.stages if stage.state in ("failed", "stopped")]
    missed = [
        gate for stage in run.stages for gate in stage.gates if not gate.met and not stage.accepted
    ]
    accepted = [stage for stage in run.stages if stage.accepted]
    seconds = sum(stage.seconds or 0.0 for stage in run.stages)
    spent = f" in {words.duration(seconds)} of training" if seconds else ""
    if failed:
        stage = failed[0]
        return Verdict(
            "bad",
            f"Stage {stage.name}, {stage.title}, {stage.state}. "
            f"{len(done)} of {len(run.stages)} stages are done{spent}.",
        )
    if run.failed_steps:
        step = next(iter(run.failed_steps))
        return Verdict(
            "bad",
            f"{STEP_TITLES[step]} failed. {len(done)} of {len(run.stages)} stages are done{spent}.",
        )
    if missed:
        return Verdict(
            "bad", f"{len(done)} of {len(run.stages)} stages are done{spent}; {missed[0]}."
        )
    if run.stages and len(done) == len(run.stages):
        number = sum(len(stage.gates) for stage in run.stages)
        if accepted:
            stage = accepted[0]
            return Verdict(
                "busy",
                f"All {len(done)} stages are done{spent}; stage {stage.name} was accepted although "
                f"{stage.accepted[0]}.",
            )
        gates = f"; all {number} gates are met" if number > 1 else ""
        return Verdict("good", f"All {len(done)} stages are done{spent}{gates}.")
    return Verdict("busy", f"{len(done)} of {len(run.stages)} stages are done{spent}.")


def _headlines(run: RunView) -> list[dict[str, Any]]:
    metrics = run.final_metrics
    return [
        {
            "sense": sense,
            "group": colour,
            "figures": [
                {"words": text, "measure": name, "value": words.figure(name, metrics[name])}
                for name, text in listed.items()
            ],
        }
        for sense, (colour, listed) in words.headlines(metrics, run.tasks).items()
    ]


def _rung(stage: StageView, failure: Failure | None) -> dict[str, Any]:
    trained, frozen = parameter_counts(stage)
    key = words.key_measure(stage.spec, stage.metrics)
    gate = next((result for result in stage.gates if result.measure == key), None)
    step, steps = stage.progress.get("step"), stage.progress.get("steps")
    return {
        "stage": stage,
        "group": stage.colour,
        "trained": trained,
        "frozen": frozen,
        "key": key,
        "value": words.figure(key, stage.metrics[key]) if key else "",
        "gate": gate,
        "missed": [str(result) for result in stage.gates if not result.met and not stage.accepted],
        "notes": _notes(stage),
        # The page begins with that of the first that failed.
        **(
            {"reason": "", "log_tail": []}
            if failure and failure.step == stage.name
            else {"reason": stage.reason, "log_tail": stage.log_tail}
        ),
        "rates": stage.spec.trainable,
        "where": f"step {step:,} of {steps:,}"
        if isinstance(step, int) and isinstance(steps, int)
        else "",
    }


def _notes(stage: StageView) -> list[str]:
    """What decided how long a stage trained, and that it was let pass, in sentences."""
    samples = stage.lineage.get("samples")
    counted = samples if isinstance(samples, dict) else {}
    met, notes = counted.get("until_met"), []
    if stage.spec.until and counted:
        goals = ", ".join(stage.spec.until)
        reached = met.get("stage") if isinstance(met, dict) else None
        notes.append(
            f"Trained until {goals}: met after {reached} steps."
            if reached
            else f"Trained until {goals}: not met within {stage.spec.max_steps} steps."
        )
    if stage.spec.extend and counted:
        notes.append(f"Extended by {' and '.join(map(str, stage.spec.extend))} steps.")
    if flat := stage.progress.get("flat"):
        ended = ", and the stage ended early" if isinstance(met, dict) and "flat" in met else ""
        notes.append(f"A flat loss: {flat}{ended}.")
    notes += [f"A checkpoint was passed over: {reason}." for reason in stage.passed_over]
    return notes + [f"Accepted although {reason}." for reason in stage.accepted]


def _forgetting(run: RunView) -> dict[str, Any] | None:
    table = forgetting_table({stage.name: stage.metrics for stage in run.stages if stage.metrics})
    if len(table.stages) < 2 or not table.measured:
        return None
    falls = {(fall.measure, fall.stage): fall for fall in table.falls()}
    rows = []
    for measure in sorted(
        table.measured, key=lambda name: (_first(table.stages, table.measured[name]), name)
    ):
        cells = []
        for stage in table.stages:
            fall = falls.get((measure, stage))
            cells.append(
                {
                    "value": words.figure(measure, table.value(measure, stage))
                    if table.value(measure, stage) is not None
                    else "",
                    "carried": stage not in table.measured[measure],
                    "fall": fall.points if fall else 0.0,
                }
            )
        rows.append({"measure": measure, "cells": cells})
    return {"stages": table.stages, "rows": rows, "largest": table.largest_fall()}


def _first(stages: tuple[str, ...], values: dict[str, float]) -> int:
    return next(index for index, stage in enumerate(stages) if stage in values)


def _pace(stage: StageView) -> dict[str, Any] | None:
    if not stage.events:
        return None
    last = stage.events[-1]
    first_step, last_step = stage.events[0].get("step", 0), last.get("step", 0)
    seconds = stage.seconds
    rate = (last_step - first_step) / seconds if seconds and last_step > first_step else None
    memory = series(stage.events, "memory_gib")[1]
    tokens = series(stage.events, "tokens_per_s")[1]
    return {
        "stage": stage,
        "steps": last_step,
        "seconds": seconds,
        "rate": rate,
        "tokens": sum(tokens) / len(tokens) if tokens else None,
        "memory": max(memory) * 2**30 if memory else None,
    }
