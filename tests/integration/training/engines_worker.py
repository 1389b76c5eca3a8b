"""Train the toy with one engine after another in the same ranks; rank 0 writes losses, norms and
final weights."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.helpers.toy import (
    ToyObjective,
    global_batch,
    toy_context,
    toy_modules,
    toy_recipe,
    union,
)
from vita_train.launch.process import run_rank
from vita_train.training.engines import fsdp2
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable
from vita_train.training.optim.schedule import rate_factor
from vita_train.training.parallel.distributed import (
    process_group,
    sum_over_ranks,
    world_from_environment,
)

STEPS = 5


def train(
    engine: dict[str, Any],
    accumulate: int,
    world: Any,
    text_only: bool = False,
    resume_at: tuple[int, Path] | None = None,
    own_files: bool = False,
    optim: dict[str, Any] | None = None,
    node_size: int = 0,
    kept_whole: int | None = None,
) -> dict[str, Any]:
    """Return losses, gradient norms and a checksum of the gathered weights."""
    changes = {"optim": optim} if optim else {}
    world = replace(world, node_size=node_size)
    if kept_whole is not None:
        fsdp2._KEPT_WHOLE = kept_whole
    recipe = toy_recipe(
        engine=engine, batch={"global_batch_size": 8, "grad_accum": accumulate}, **changes
    )
    spec = recipe.stages["1.2"]
    objective, runner = start(recipe, spec, world)
    losses, norms = [], []
    for step in range(STEPS):
        if resume_at and step == resume_at[0]:
            resume_at[1].mkdir(parents=True, exist_ok=True)
            sum_over_ranks([0])
            runner.save(resume_at[1])
            sum_over_ranks([0])
            runner.close()
            objective, runner = start(recipe, spec, world)
            runner.load(on_its_own(resume_at[1], world.rank) if own_files else resume_at[1])
        mine = global_batch(step)[world.rank :: world.size]
        if text_only:
            mine = (
                [sample for sample in global_batch(step) if sample.picture is None]
                if world.rank
                else mine
            )
        share = len(mine) // accumulate
        parts = [
            objective.collate(mine[i * share : (i + 1) * share], seed=step)
            for i in range(accumulate)
        ]
        total = sum_over_ranks([sum(objective.weight(part) for part in parts)])[0]
        seen = sum_over_ranks([float("image" in part.modalities) for part in parts])
        loss = 0.0
        for index, part in enumerate(parts):
            part = union(part, frozenset({"image"} if seen[index] else ()))
            output = runner.forward_backward(part, "main", 1 / total, last=index == len(parts) - 1)
            loss += float(output.loss_sum)
        norms.append(float(runner.step("main", rate_factor(step, STEPS, spec.optim))))
        losses.append(sum_over_ranks([loss])[0] / total)
    state = runner.gather()
    runner.close()
    weights = {
        name: float(sum(v.double().abs().sum() for v in part.values()))
        for name, part in (state or {}).items()
    }
    return {"losses": losses, "norms": norms, "weights": weights}


def on_its_own(folder: Path, rank: int) -> Path:
    """Return a folder with the files that a machine with this rank alone would have fetched."""
    own = folder.with_name(f"{folder.name} of {rank}")
    own.mkdir()
    for path in folder.iterdir():
        if path.name == ".metadata" or path.name.startswith(("__0_", f"__{rank}_")):
            (own / path.name).symlink_to(path)
    return own


def start(recipe: Any, spec: Any, world: Any) -> tuple[ToyObjective, Any]:
    """Return a fresh objective and its engine."""
    objective = ToyObjective(toy_context(recipe, "1.2", world.rank, world.size), toy_modules())
    apply_trainable(objective, spec.trainable)
    dtype = torch.bfloat16 if spec.engine.dtype == "bfloat16" else torch.float32
    return objective, build_engine(objective, EngineContext(spec, world, dtype))


def main() -> int:
    """Run the cases named in a JSON file: name -> {engine, accumulate, ...}."""
    cases = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    world = world_from_environment()
    results = {}
    with process_group(world, timeout=300, always=True):
        for name, case in cases.items():
            resume = case.pop("resume", None)
            results[name] = train(
                world=world, resume_at=(resume, out.parent / name) if resume else None, **case
            )
    if world.rank == 0:
        out.write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    run_rank(main)
