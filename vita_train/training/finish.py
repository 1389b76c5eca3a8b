"""The end of a stage on rank 0: weights stored, measures taken, the gate passed, the manifest
committed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vita_train.errors import VitaError
from vita_train.evaluation.gates import check_gates, gate_results
from vita_train.models.quantize import elements
from vita_train.runs.manifest import STEP_DIGEST, STEP_DIGEST_VARIABLE, Manifest
from vita_train.storage.checkpoints.attempt import Attempt
from vita_train.storage.digest import digest_of
from vita_train.training.advice import extension_advice, recent_trend
from vita_train.training.counters import Counters
from vita_train.training.evaluate import measure_stage
from vita_train.training.inputs import Inputs, code_version, extended_digest
from vita_train.training.objectives.base import Objective
from vita_train.training.observability.run_log import EVENTS, RunLog
from vita_train.training.observability.telemetry import peak_memory
from vita_train.training.parallel.distributed import World
from vita_train.training.results import Result, store_result
from vita_train.training.stage_run import StageRun


@dataclass(frozen=True)
class Trained:
    """What a stage has when its last step is done, on rank 0."""

    counters: Counters
    objective: Objective
    result: Result
    measured: dict[str, float] | None
    """Held-out measures, where all ranks took them together."""
    attempt: Attempt
    run_log: RunLog


def noted_for_step(stage_run: StageRun, done: Manifest) -> Manifest:
    """Note in the manifest of a stage that need not be trained again which step of the pipeline it
    is good for now."""
    digest = os.environ.get(STEP_DIGEST_VARIABLE)
    if not digest or done.lineage.get(STEP_DIGEST) == digest:
        return done
    noted = done.model_copy(update={"lineage": {**done.lineage, STEP_DIGEST: digest}})
    stage_run.run.commit(stage_run.stage, noted)
    return noted


def finish(
    stage_run: StageRun, world: World, inputs: Inputs, digest: str, trained: Trained
) -> Manifest:
    """Write weights, measure what was not, pass the gate, commit.

    Raises:
        GateError: the gate was missed; nothing is committed, the last checkpoint stays.
        VitaError: a measure is not finite, or the store cannot be written.
    """
    counters, result, run_log = trained.counters, trained.result, trained.run_log
    recipe, spec = stage_run.recipe, stage_run.spec
    # Under this attempt's own name: two that end at once never write over each other's files
    refs = store_result(
        recipe,
        stage_run.stage,
        result,
        inputs,
        stage_run.store,
        f"{stage_run.prefix}/final/{trained.attempt.id}",
        stage_run.directory,
    )
    measured = trained.measured
    if measured is None:
        measured = take_measures(stage_run, world, inputs, result, run_log, together=False)
    metrics = {**counters.dev, **counters.checks, **measured}
    if wrong := sorted(name for name, value in metrics.items() if not math.isfinite(value)):
        raise VitaError(
            f"measures of the final weights are not finite: {', '.join(wrong)}",
            code="VT-FAIL-011",
            where=f"stage {stage_run.stage}",
            remedy="lower the rates of the stage; nothing was committed",
        )
    run_log.progress(metrics=metrics)
    accepted = check_gates(
        spec, metrics, where=f"stage {stage_run.stage}", remedy=gate_remedy(stage_run, metrics)
    )
    lineage = _lineage(stage_run, world, inputs, trained)
    manifest = Manifest(
        kind="model",
        run=stage_run.run.name,
        stage=stage_run.stage,
        digest=extended_digest(digest, spec),
        modules={**inputs.modules, **refs},
        metrics=metrics,
        lineage={**lineage, "accepted": accepted} if accepted else lineage,
    )
    # Told before the commit: a stage counts as done by its manifest alone
    run_log.progress(state="done", eta_s=0, phase="done")
    run_log.close()
    # Last of all: from here on everybody believes the weights
    stage_run.run.commit(stage_run.stage, manifest)
    if stage_run.page is not None:
        stage_run.page(last=True)
    return manifest


def _lineage(
    stage_run: StageRun, world: World, inputs: Inputs, trained_stage: Trained
) -> dict[str, Any]:
    """Return where the weights come from and what they cost."""
    counters, objective = trained_stage.counters, trained_stage.objective
    attempt, adapters = trained_stage.attempt, trained_stage.result.adapters
    children = objective.model_modules()
    trained: dict[str, int] = {}
    frozen: dict[str, int] = {}
    for name, child in children.items():
        for parameter in child.parameters():
            # Of a module with adapters the matrices below them are frozen
            counts = trained if name not in objective.frozen and parameter.requires_grad else frozen
            counts[name] = counts.get(name, 0) + elements(parameter)
    names = [
        f"{name}.{key}"
        for name, child in children.items()
        if name not in objective.frozen
        for key, parameter in child.named_parameters()
        if parameter.requires_grad
    ]
    spent = asdict(counters)
    step_digest = os.environ.get(STEP_DIGEST_VARIABLE)
    return {
        **({STEP_DIGEST: step_digest} if step_digest else {}),
        "recipe": digest_of(stage_run.recipe.model_dump(mode="json")),
        "code": code_version(),
        "data": inputs.data,
        "inputs": {
            name: {"stage": ref.stage, "sha256": [file.sha256 for file in ref.files]}
            for name, ref in inputs.modules.items()
            if name in children
        },
        "trained": trained,
        "frozen": frozen,
        "trained_names": names,
        "samples": {
            "steps": counters.step,
            "count": counters.samples,
            "sum": counters.sample_sum,
            "datasets": dict(stage_run.spec.data),
            "curriculum": [phase.model_dump() for phase in stage_run.spec.curriculum],
            "until_met": counters.met,
            "extended_by": stage_run.spec.extend,
        },
        "seconds": round(counters.seconds, 2),
        "tokens": spent["tokens"],
        "tokens_per_s": round(counters.tokens / max(counters.seconds, 1e-9), 1),
        "memory_gib": round(peak_memory(world.device), 3),
        # JSON has no NaN
        "loss": counters.loss if math.isfinite(counters.loss) else None,
        "skipped": counters.skipped,
        "unreadable": counters.unreadable,
        "adapters": {name: adapter.base for name, adapter in adapters.items()},
        "engine": stage_run.spec.engine.model_dump(mode="json"),
        "world": world.size,
        "attempt": attempt.id,
        "restarts": attempt.restarts,
    }


def gate_remedy(stage_run: StageRun, metrics: Mapping[str, float]) -> str:
    """Return what to do about a missed gate: how the stage moved lately, and the commands that go
    on from here."""
    missed = [result.measure for result in gate_results(stage_run.spec, metrics) if not result.met]
    trend = recent_trend(stage_run.directory / EVENTS, missed)
    return " ".join(filter(None, (trend, extension_advice(stage_run.recipe, stage_run.stage))))


def take_measures(
    stage_run: StageRun,
    world: World,
    inputs: Inputs,
    result: Result,
    run_log: RunLog,
    *,
    together: bool,
) -> dict[str, float]:
    """Take the held-out measures of a stage's final weights, on all ranks together or on rank 0."""
    run_log.progress(phase="measuring")
    return measure_stage(
        stage_run.stage,
        stage_run.recipe,
        stage_run.corpus,
        result.modules.eval(),
        inputs,
        world,
        together=together,
    )
