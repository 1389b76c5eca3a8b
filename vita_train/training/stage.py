"""One stage as one rank runs it: inputs, modules, training, weights, measures, gate, manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from vita_train import __version__
from vita_train.errors import GateError, VitaError
from vita_train.evaluation.gates import check_gates
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run
from vita_train.storage.digest import digest_of
from vita_train.training.adapters import check_libraries, prepare_adapters
from vita_train.training.batches import AHEAD
from vita_train.training.checkpointing import checkpoint_as_asked
from vita_train.training.counters import Counters
from vita_train.training.engines.base import EngineContext, compute_dtype
from vita_train.training.engines.factory import build_engine
from vita_train.training.evaluate import DevMeasures
from vita_train.training.finish import Trained, finish, gate_remedy, noted_for_step, take_measures
from vita_train.training.freeze import apply_trainable
from vita_train.training.inputs import (
    Inputs,
    extended_digest,
    find_inputs,
    stage_digest,
)
from vita_train.training.objectives.base import Kept, StageContext
from vita_train.training.observability.exporter import SnapshotCollector, served
from vita_train.training.observability.run_log import RunLog
from vita_train.training.observability.telemetry import (
    MetricsSnapshot,
    full_speed,
    peak_flops,
)
from vita_train.training.outcome import write_outcome
from vita_train.training.parallel.distributed import (
    World,
    check_same,
    peer_errors,
    process_group,
    world_from_environment,
)
from vita_train.training.results import everywhere, gather_result
from vita_train.training.resume import Checkpoints
from vita_train.training.stage_run import Page, StageRun
from vita_train.training.step_plan import StepPlan, most_steps
from vita_train.training.trainer import Loop
from vita_train.training.watchdog import Watchdog
from vita_train.training.weights import load_inputs, stage_dtypes

#: Seconds beyond the step timeout after which a collective gives up by itself; the watchdog acts
#: before.
_COLLECTIVE_MARGIN = 600.0


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
        # Bounds may have changed since: they are no part of the digest
        check_gates(
            spec,
            done.metrics,
            where=f"stage {stage_run.stage}",
            remedy=gate_remedy(stage_run, done.metrics),
        )
        return noted_for_step(stage_run, done) if world.rank == 0 else None
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
            # Where things lie and how they are started may differ by machine; what trains may not
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
    # Outside the group: other ranks have ended, and measures may take longer than a collective
    # waits
    with _failures(trained.run_log):
        return finish(stage_run, world, inputs, digest, trained)


def _train(
    stage_run: StageRun, world: World, inputs: Inputs, digest: str, watchdog: Watchdog
) -> Trained | None:
    """Train to the last step, and measure where all ranks can; on rank 0 return what the manifest
    is made from."""
    recipe, spec = stage_run.recipe, stage_run.spec
    watchdog.beat("the start of the stage")
    dtype = compute_dtype(recipe, spec)
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
        kept=Kept(stage_run.store, stage_run.prefix, recipe.storage.endpoint),
    )
    settings = f"stages.{stage_run.stage}"
    check_libraries(spec, where=settings)
    with watchdog.off():  # large weights may have to be fetched
        modules = load_inputs(
            recipe,
            inputs,
            stage_run.modules,
            ctc_vocab_size=stage_run.ctc_vocab_size,
            dtypes=stage_dtypes(
                spec,
                stage_run.modules,
                dtype,
                stage_run.objective.keep_float32,
                stored=getattr(torch, recipe.model.dtype),
            ),
            # On a processor modules stay where they are loaded, and what trains is written to.
            mapped=world.device.type != "cpu",
        )
        prepare_adapters(
            modules, spec, seed=recipe.seed, device=world.device, dtype=dtype, where=settings
        )
    checkpoint_as_asked(modules, recipe.model, spec, world)
    objective = stage_run.objective(context, modules)
    apply_trainable(objective, spec.trainable, where=f"{settings}.trainable")
    order = objective.order()
    plan = StepPlan(spec, most_steps(spec, order))
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
            # Else the engine moves it, and one that cuts it up never has it there whole
            if objective.prepares:
                objective.to(world.device)
            # Before a checkpoint is restored, which then writes over what this has set
            objective.before_training(order)
        # Before the engine, which may cut parameters up: sizes are counted whole
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
                    measured = take_measures(
                        stage_run, world, inputs, result, run_log, together=True
                    )
    if result is None or world.rank > 0:
        return None
    return Trained(counters, objective, result, measured, attempt, run_log)


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
