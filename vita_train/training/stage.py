"""One stage as one rank runs it: inputs, modules, training, weights, measures, gate, manifest."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from vita_train import __version__
from vita_train.data.index.corpus import open_corpus
from vita_train.errors import GateError, VitaError
from vita_train.evaluation.gates import check_gates, gate_results
from vita_train.models.quantize import elements
from vita_train.recipe.aliases import stage_name
from vita_train.recipe.stage import StageSpec
from vita_train.runs.manifest import STEP_DIGEST, STEP_DIGEST_VARIABLE, Manifest
from vita_train.runs.run import Run
from vita_train.storage.base import Store
from vita_train.storage.checkpoints.attempt import Attempt
from vita_train.storage.digest import digest_of
from vita_train.training.adapters import check_libraries, prepare_adapters
from vita_train.training.advice import extension_advice, recent_trend
from vita_train.training.batches import AHEAD
from vita_train.training.checkpointing import checkpoint_as_asked
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.evaluate import DevMeasures, measure_stage
from vita_train.training.freeze import apply_trainable
from vita_train.training.inputs import (
    Inputs,
    code_version,
    extended_digest,
    find_inputs,
    stage_digest,
)
from vita_train.training.objectives import objective_class
from vita_train.training.objectives.base import Objective, StageContext
from vita_train.training.observability.exporter import SnapshotCollector, served
from vita_train.training.observability.run_log import EVENTS, RunLog
from vita_train.training.observability.telemetry import (
    MetricsSnapshot,
    full_speed,
    peak_flops,
    peak_memory,
)
from vita_train.training.outcome import write_outcome
from vita_train.training.parallel.distributed import (
    World,
    check_same,
    peer_errors,
    process_group,
    world_from_environment,
)
from vita_train.training.results import Result, everywhere, gather_result, store_result
from vita_train.training.resume import Checkpoints
from vita_train.training.step_plan import StepPlan
from vita_train.training.trainer import Counters, Loop
from vita_train.training.watchdog import Watchdog
from vita_train.training.weights import load_inputs

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
#: Seconds beyond the step timeout after which a collective gives up by itself; the watchdog acts
#: before.
_COLLECTIVE_MARGIN = 600.0


class Page(Protocol):
    """Shows how far a run is."""

    def __call__(self, *, last: bool = False) -> None:
        """Show what is new; ``last``: the stage is done."""


class StageRun:
    """Names and places of one stage of one run, the same on every rank."""

    def __init__(
        self, run: Run, stage: str, logs: Path | None = None, page: Page | None = None
    ) -> None:
        self.run, self.recipe, self.page = run, run.recipe, page
        recipe = run.recipe
        self.stage = stage_name(stage, recipe.stages)
        self.spec: StageSpec = recipe.stages[self.stage]
        self.objective = objective_class(self.spec.objective)
        self.store: Store = run.store
        self.prefix = run.key(self.stage)
        self.directory = run.dir / self.stage
        self.logs = logs or run.logs_dir(self.stage)
        self.corpus = open_corpus(run).for_stage(self.spec)
        self.modules = self.objective.modules_used(self.spec, self.corpus)

    @property
    def ctc_vocab_size(self) -> int:
        """Outputs of the CTC head; 0 where no stage uses it."""
        return len(self.corpus.ctc_vocab) if "ctc_head" in self.modules else 0

    def remote(self) -> tuple[Store, str] | None:
        """Return where the run log is published, when the run's store is not on this machine."""
        return None if self.run.is_local else (self.store, self.prefix)


def run_stage(
    run: Run, stage: str, *, logs: Path | None = None, page: Page | None = None
) -> Manifest | None:
    """Train one stage as one of the ranks that the environment names, and commit its result.

    A stage that is done already with the same digest returns its manifest at once. One that was
    interrupted goes on from its newest checkpoint.

    Args:
        run: of which.
        stage: stage id or alias.
        logs: where this rank's error file goes; the stage's own ``logs`` when not given.
        page: shows how far the run is, whenever there is something new to show; rank 0 calls it.

    Returns:
        The manifest on rank 0; None on the other ranks, which end when the weights are gathered.

    Raises:
        RecipeError: the stage cannot be built from this recipe or its inputs are not there.
        GateError: the stage was trained but did not reach its gate; its last checkpoint stays.
        StoppedError: SIGTERM came; the state was saved.
        VitaError: any other end; each rank leaves ``logs/rank-<r>.error.json``.
    """
    world = world_from_environment()
    stage_run = StageRun(run, stage, logs, page)
    try:
        return _run(stage_run, world)
    except VitaError as error:
        write_outcome(stage_run.logs, world.rank, error)
        raise


def _run(stage_run: StageRun, world: World) -> Manifest | None:
    recipe, spec = stage_run.recipe, stage_run.spec
    inputs = find_inputs(stage_run.run, stage_run.stage, stage_run.modules)
    digest = stage_digest(recipe, stage_run.stage, inputs, stage_run.modules)
    done = stage_run.run.final(stage_run.stage)
    if done is not None and done.digest == extended_digest(digest, spec):
        check_gates(
            spec,
            done.metrics,
            where=f"stage {stage_run.stage}",
            remedy=_gate_remedy(stage_run, done.metrics),
        )
        return _of_this_step(stage_run, done) if world.rank == 0 else None
    watchdog = Watchdog(
        recipe.launch.step_timeout, lambda error: write_outcome(stage_run.logs, world.rank, error)
    )
    engine_needs_group = spec.engine.kind != "torch"
    timeout = recipe.launch.step_timeout + _COLLECTIVE_MARGIN
    with (
        contextlib.closing(watchdog),
        process_group(world, timeout=timeout, always=engine_needs_group),
    ):
        with peer_errors():
            same = recipe.model_dump(mode="json", exclude={"storage", "launch", "tracking"})
            check_same(
                digest_of([digest, same]),
                what="the recipe, the data or the weights",
                remedy="start every machine with the same recipe and settings, and storage.root on "
                "a store "
                "that all of them share",
            )
            trained = _train(stage_run, world, inputs, digest, watchdog)
        if trained is None:
            return None
    with _failures(trained.run_log):
        return _finish(stage_run, world, inputs, digest, trained)


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


def _of_this_step(stage_run: StageRun, done: Manifest) -> Manifest:
    """Note in the manifest of a stage that need not be trained again which step of the pipeline it
    is good for now."""
    digest = os.environ.get(STEP_DIGEST_VARIABLE)
    if not digest or done.lineage.get(STEP_DIGEST) == digest:
        return done
    noted = done.model_copy(update={"lineage": {**done.lineage, STEP_DIGEST: digest}})
    stage_run.run.commit(stage_run.stage, noted)
    return noted


def _train(
    stage_run: StageRun, world: World, inputs: Inputs, digest: str, watchdog: Watchdog
) -> Trained | None:
    """Train to the last step, and measure where all ranks can; on rank 0 return what the manifest
    is made from."""
    recipe, spec = stage_run.recipe, stage_run.spec
    watchdog.beat("the start of the stage")
    dtype = _DTYPES[spec.engine.dtype or recipe.model.dtype]
    context = StageContext(
        recipe=recipe,
        stage=stage_run.stage,
        spec=spec,
        corpus=stage_run.corpus,
        device=world.device,
        dtype=dtype,
        rank=world.rank,
        world=world.size,
        seed=recipe.seed,
    )
    settings = f"stages.{stage_run.stage}"
    check_libraries(spec, where=settings)
    with watchdog.off():  # large weights may have to be fetched
        modules = load_inputs(
            recipe, inputs, stage_run.modules, ctc_vocab_size=stage_run.ctc_vocab_size
        )
        prepare_adapters(
            modules, spec, seed=recipe.seed, device=world.device, dtype=dtype, where=settings
        )
    checkpoint_as_asked(modules, recipe.model, spec, world)
    objective = stage_run.objective(context, modules)
    apply_trainable(objective, spec.trainable, where=f"{settings}.trainable")
    order = objective.order()
    steps = spec.most_steps or max(1, round((spec.epochs or 1.0) * order.steps_per_epoch))
    plan = StepPlan(spec, steps)
    measure = None
    if plan.dataset_measures:
        measure = DevMeasures(stage_run.stage, recipe, stage_run.corpus, modules, world)
        measure.check(plan.dataset_measures, where=f"{settings}.until")
    run_log = RunLog(
        stage_run.directory if world.rank == 0 else None,
        plan.end,
        remote=stage_run.remote(),
        page=stage_run.page,
    )
    checkpoints = Checkpoints(
        stage_run.store,
        stage_run.prefix,
        world,
        digest,
        keep_last=recipe.storage.keep_last,
        extend=spec.extend,
    )
    with _failures(run_log):
        with watchdog.off():
            objective.to(world.device).before_training(order)
        speed = full_speed(objective.flops_per_token(), world.size, peak_flops(world.device, dtype))
        engine = build_engine(objective, EngineContext(spec, world, dtype))
        with watchdog.off():
            found = checkpoints.restore(engine)
            attempt = checkpoints.begin()
        counters = Counters(**found) if found else Counters()
        run_log.rewind(counters.step)
        run_log.track(recipe.tracking, stage_run.prefix)
        run_log.progress(
            step=counters.step,
            state="running",
            **(
                {"passed_over": list(checkpoints.passed_over.values())}
                if checkpoints.passed_over
                else {}
            ),
        )
        snapshot = MetricsSnapshot()
        with served(_collector(stage_run, world, snapshot, checkpoints, speed), world.local_rank):
            Loop(
                objective,
                engine,
                spec,
                world,
                recipe.seed,
                plan,
                order,
                run_log,
                checkpoints,
                watchdog,
                workers=recipe.launch.workers,
                ahead=AHEAD if recipe.storage.media == "shards" else 0,
                most_unreadable=recipe.launch.most_unreadable,
                snapshot=snapshot,
                measure=measure,
            ).run(counters)
            watchdog.beat("gathering the weights")
            result = gather_result(
                recipe,
                stage_run.stage,
                engine,
                modules,
                inputs,
                ctc_vocab_size=stage_run.ctc_vocab_size,
                device=world.device,
            )
            measured: dict[str, float] | None = None
            if result is not None and everywhere(spec):
                with watchdog.off():
                    measured = _measure(stage_run, world, inputs, result, run_log, together=True)
    if result is None or world.rank > 0:
        return None
    return Trained(counters, objective, result, measured, attempt, run_log)


def _measure(
    stage_run: StageRun,
    world: World,
    inputs: Inputs,
    result: Result,
    run_log: RunLog,
    *,
    together: bool,
) -> dict[str, float]:
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


def _collector(
    stage_run: StageRun,
    world: World,
    snapshot: MetricsSnapshot,
    checkpoints: Checkpoints,
    speed: float | None,
) -> SnapshotCollector:
    """Return what the exporter asks for this rank's metrics."""
    device = (
        torch.cuda.get_device_name(world.device)
        if world.device.type == "cuda"
        else world.device.type
    )
    info = {
        "version": __version__,
        "objective": stage_run.spec.objective,
        "engine": stage_run.spec.engine.kind,
        "device": device,
    }
    return SnapshotCollector(
        snapshot,
        {"run": stage_run.run.name, "stage": stage_run.stage, "rank": str(world.rank)},
        info,
        ranks=world.size,
        full_speed=speed,
        committed_at=checkpoints.committed_at if world.rank == 0 else None,
    )


def _finish(
    stage_run: StageRun, world: World, inputs: Inputs, digest: str, trained: Trained
) -> Manifest:
    """Write weights, measure what was not, pass the gate, commit."""
    counters, result, run_log = trained.counters, trained.result, trained.run_log
    recipe, spec = stage_run.recipe, stage_run.spec
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
        measured = _measure(stage_run, world, inputs, result, run_log, together=False)
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
        spec, metrics, where=f"stage {stage_run.stage}", remedy=_gate_remedy(stage_run, metrics)
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
    run_log.progress(state="done", eta_s=0, phase="done")
    run_log.close()
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
        "loss": counters.loss if math.isfinite(counters.loss) else None,
        "skipped": counters.skipped,
        "unreadable": counters.unreadable,
        "adapters": {name: adapter.base for name, adapter in adapters.items()},
        "engine": stage_run.spec.engine.model_dump(mode="json"),
        "world": world.size,
        "attempt": attempt.id,
        "restarts": attempt.restarts,
    }


def _gate_remedy(stage_run: StageRun, metrics: Mapping[str, float]) -> str:
    """Return what to do about a missed gate: how the stage moved lately, and the commands that go
    on from here."""
    missed = [result.measure for result in gate_results(stage_run.spec, metrics) if not result.met]
    trend = recent_trend(stage_run.directory / EVENTS, missed)
    return " ".join(filter(None, (trend, extension_advice(stage_run.recipe, stage_run.stage))))


@contextlib.contextmanager
def _failures(run_log: RunLog) -> Iterator[None]:
    """Leave the reason of a failure in ``progress.json``."""
    try:
        yield
    except VitaError as error:
        state = "failed" if isinstance(error, GateError) or error.exit_code in (1, 2) else "stopped"
        run_log.progress(state=state, reason=str(error))
        with contextlib.suppress(VitaError):
            run_log.close()
        raise
