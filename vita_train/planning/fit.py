"""Whether a stage fits a device and its node, and the smallest change that makes it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vita_train.planning.devices import Device
from vita_train.planning.estimate import Estimate, estimate_stage
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import EngineSpec, StageSpec

#: Times that nodes are doubled in the search.
_DOUBLINGS = 4


@dataclass(frozen=True)
class Change:
    """What to set so that a stage takes less."""

    settings: tuple[str, ...]
    """As ``--set`` takes them."""
    estimate: Estimate


def lacks(estimate: Estimate, device: Device, node_memory: int = 0) -> str:
    """Say what a stage does not fit, in words; empty where it fits.

    Args:
        estimate: of the stage.
        device: whose memory it is held against.
        node_memory: bytes of a node; 0 where they are not known.
    """
    needed, problems = estimate.memory.total, []
    if needed > device.usable:
        largest = sorted(vars(estimate.memory).items(), key=lambda item: -item[1])[:2]
        shown = " and ".join(f"{name} {size / 1e9:,.2f} GB" for name, size in largest)
        problems.append(
            f"needs {needed / 1e9:,.2f} GB of {device.usable / 1e9:,.2f} GB of each device, "
            f"most of it {shown}"
        )
    if node_memory and estimate.host.memory > node_memory:
        problems.append(
            f"needs {estimate.host.memory / 1e9:,.1f} GB of a node's {node_memory / 1e9:,.1f} GB"
        )
    return "; ".join(problems)


@dataclass(frozen=True)
class Shortage:
    """What a stage lacks, and what to do."""

    stage: str
    problem: str
    remedy: str


def shortage(
    recipe: Recipe, estimate: Estimate, device: Device, node_memory: int = 0
) -> Shortage | None:
    """Return what a stage does not fit and the smallest change that makes it fit; none where it
    fits.

    Args:
        recipe: of the stage.
        estimate: of the stage.
        device: whose memory it is held against.
        node_memory: bytes of a node; 0 where they are not known.
    """
    problem, stage = lacks(estimate, device, node_memory), estimate.stage
    if not problem:
        return None
    change = smallest_change(recipe, stage, device)
    if change is None:
        remedy = f"stage {stage} fits with no setting tried: take larger devices or more nodes"
    else:
        settings = " ".join(f"--set '{setting}'" for setting in change.settings)
        needed = change.estimate.memory.total / 1e9
        remedy = f"stage {stage} fits with {settings} ({needed:,.2f} GB)"
    return Shortage(stage, f"stage {stage} {problem}", remedy)


def smallest_change(recipe: Recipe, stage: str, device: Device) -> Change | None:
    """Return the first change that makes a stage fit the device, the cheapest in time first; none
    where none does.

    Each step of the search is put on top of those before it, and those that turn out not to be
    needed are taken back.
    """
    settings: dict[str, Any] = {}
    for name, value in _steps(recipe, stage):
        settings[name] = value
        estimate = estimate_stage(_changed(recipe, stage, settings), stage, device)
        if estimate is None:
            return None
        if not lacks(estimate, device):
            return _without_idle(recipe, stage, device, settings, Change((), estimate))
    return None


def cheaper(recipe: Recipe, stage: str) -> str:
    """Return the next setting that takes less memory, as ``--set`` takes it; empty where there is
    none."""
    name, value = next(_steps(recipe, stage), ("", None))
    return _shown(stage, name, value) if name else ""


def _without_idle(
    recipe: Recipe, stage: str, device: Device, settings: dict[str, Any], change: Change
) -> Change:
    estimate = change.estimate
    for name in list(settings)[:-1]:
        fewer = {key: value for key, value in settings.items() if key != name}
        found = estimate_stage(_changed(recipe, stage, fewer), stage, device)
        if found is not None and not lacks(found, device):
            settings, estimate = fewer, found
    return Change(tuple(_shown(stage, *item) for item in settings.items()), estimate)


def _steps(recipe: Recipe, stage: str) -> Iterator[tuple[str, Any]]:
    """Yield settings that each take less memory than those before, dearer in time from one to the
    next."""
    spec, launch = recipe.stages[stage], recipe.launch
    engine, blocks = spec.engine, OBJECTIVES[spec.objective].reads != "audio"
    if engine.checkpoint_activations in (False, "auto") and blocks:
        yield "engine.checkpoint_activations", "selective"
    rows = spec.batch.micro_rows(launch.ranks)
    accum = spec.batch.grad_accum
    while rows > 1:
        accum, rows = accum * 2, -(-rows // 2)
        yield "batch.grad_accum", accum
    if engine.checkpoint_activations is not True and blocks:
        yield "engine.checkpoint_activations", True
    shards = spec.optim.kind == "adamw" and spec.objective != "codec" and spec.quantize is None
    if shards and engine.kind != "fsdp2":
        first = engine.zero + 1 if engine.kind == "deepspeed" else 2
        for zero in range(first, 4):
            yield "engine", engine.model_copy(update={"kind": "deepspeed", "zero": zero})
        base = engine.model_copy(update={"kind": "deepspeed", "zero": 3})
        yield "engine", base.model_copy(update={"offload": "optimizer"})
        yield "engine", base.model_copy(update={"offload": "all"})
    if engine.kind != "torch" or shards:
        for power in range(1, _DOUBLINGS + 1):
            if spec.batch.global_batch_size >= launch.ranks * 2**power * spec.batch.grad_accum:
                yield "launch.nodes", launch.nodes * 2**power


def _changed(recipe: Recipe, stage: str, settings: dict[str, Any]) -> Recipe:
    spec: StageSpec = recipe.stages[stage]
    engine: EngineSpec = settings.get("engine", spec.engine)
    if "engine.checkpoint_activations" in settings:
        asked = settings["engine.checkpoint_activations"]
        engine = engine.model_copy(update={"checkpoint_activations": asked})
    batch = spec.batch
    if "batch.grad_accum" in settings:
        batch = batch.model_copy(update={"grad_accum": settings["batch.grad_accum"]})
    launch = recipe.launch
    if "launch.nodes" in settings:
        launch = launch.model_copy(update={"nodes": settings["launch.nodes"]})
    changed = spec.model_copy(update={"engine": engine, "batch": batch})
    return recipe.model_copy(update={"launch": launch, "stages": {**recipe.stages, stage: changed}})


def _shown(stage: str, name: str, value: Any) -> str:
    if name == "launch.nodes":
        return f"launch.nodes={value}"
    if isinstance(value, EngineSpec):
        offload = f", offload: {value.offload}" if value.offload != "none" else ""
        dtype = f", dtype: {value.dtype}" if value.dtype else ""
        asked = str(value.checkpoint_activations).lower()
        kept = f", checkpoint_activations: {asked}"
        return (
            f"stages.{stage}.engine={{kind: deepspeed, zero: {value.zero}{kept}{offload}{dtype}}}"
        )
    text = str(value).lower() if isinstance(value, bool) else value
    return f"stages.{stage}.{name}={text}"
