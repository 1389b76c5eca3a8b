"""Train the omni model's adapters with one engine after another on two ranks, or one; rank 0 writes
what came out."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.helpers.no_source import NO_SOURCE
from tests.integration.training.omni_worker import MODEL, NAMES, FixedModules, batch_of
from vita_train.launch.process import run_rank
from vita_train.models.build import build_modules
from vita_train.recipe.schema import Recipe
from vita_train.training.adapters import prepare_adapters
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.base import StageContext
from vita_train.training.parallel.distributed import (
    process_group,
    sum_over_ranks,
    world_from_environment,
)
from vita_train.training.resume import seed_step

STEPS = 4
#: Rows of the global batch, the same at every step; the first has a tile and a clip.
ROWS = 2


def start(case: dict[str, Any], world: Any) -> tuple[Any, Any]:
    """Return a fresh objective and its engine."""
    dropout = case.get("dropout", 0.0)
    lora = {"rank": 4, "alpha": 8, "dropout": dropout, **case["lora"]} if "lora" in case else None
    stage = {
        "objective": "next_token",
        "data": {"toy": 1.0},
        "steps": STEPS,
        "engine": case["engine"],
        "trainable": case.get("trainable", {"llm": 3e-2, "projector": 1e-3}),
        "lora": lora,
        "quantize": case.get("quantize"),
    }
    recipe = Recipe.model_validate(
        {"name": "toy", "data": NO_SOURCE, "model": MODEL, "stages": {"2.2": stage}}
    )
    spec = recipe.stages["2.2"]
    tokenizer = type("Tokenizer", (), {"pad_token_id": 0})()
    corpus: Any = type("Corpus", (), {"tokenizer": tokenizer})()
    dtype = torch.bfloat16 if spec.engine.dtype == "bfloat16" else torch.float32
    context = StageContext(
        recipe=recipe,
        stage="2.2",
        spec=spec,
        corpus=corpus,
        device=world.device,
        dtype=dtype,
        rank=world.rank,
        world=world.size,
        seed=0,
    )
    modules = build_modules(recipe.model, NAMES)
    prepare_adapters(modules, spec, seed=0, device=world.device, dtype=dtype, where="stages.2.2")
    objective = FixedModules(context, modules)
    apply_trainable(objective, spec.trainable)
    return objective, build_engine(objective, EngineContext(spec, world, dtype))


def train(case: dict[str, Any], world: Any, scratch: Path) -> dict[str, Any]:
    """Return the losses, the loss in eval mode at the end, and sums of what was gathered."""
    _, runner = start(case, world)
    losses = []
    for step in range(STEPS):
        if case.get("resume") == step:
            scratch.mkdir(parents=True, exist_ok=True)
            sum_over_ranks([0])
            runner.save(scratch)
            sum_over_ranks([0])
            runner.close()
            _, runner = start(case, world)
            runner.load(scratch)
        seed_step(0, step, world.rank)
        parts = [
            replace(batch_of(row, 0), modalities=frozenset({"image", "audio"}))
            for row in range(world.rank, ROWS, world.size)
        ]
        total = sum_over_ranks([sum(runner.objective.weight(part) for part in parts)])[0]
        loss = sum(
            float(
                runner.forward_backward(
                    part, "main", 1 / total, last=place == len(parts) - 1
                ).loss_sum
            )
            for place, part in enumerate(parts)
        )
        runner.step("main", 1.0)
        losses.append(sum_over_ranks([loss])[0] / total)
        runner.evaluate(parts[0])
    state = runner.gather() or {}
    runner.close()
    sums = {
        name: float(sum(value.double().abs().sum() for value in part.values()))
        for name, part in state.items()
    }
    return {
        "losses": losses,
        "sums": sums,
        "tensors": {name: sorted(part) for name, part in state.items()},
        "bytes": sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()),
    }


def main() -> int:
    """Run the cases of a JSON file."""
    cases, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    world = world_from_environment()
    with process_group(world, timeout=300, always=True):
        results = {
            name: train(case, world, out.parent / f"{world.size}-{name}")
            for name, case in cases.items()
        }
    if world.rank == 0:
        out.write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    run_rank(main)
