"""One rank of a toy stage: the real loop, journal, checkpoints and watchdog around the toy
objective.

python -m tests.integration.training.loop_worker ROOT '{"engine": ..., "stage": {"steps": ...},
"fault": ...}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.helpers.toy import (
    ToyBatch,
    ToyObjective,
    collate,
    toy_context,
    toy_modules,
    toy_recipe,
)
from vita_train.errors import DataError, VitaError
from vita_train.launch.process import run_rank
from vita_train.storage.factory import open_store
from vita_train.training.counters import Counters
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.base import LossOutput
from vita_train.training.observability.run_log import RunLog
from vita_train.training.outcome import write_outcome
from vita_train.training.parallel.distributed import (
    peer_errors,
    process_group,
    world_from_environment,
)
from vita_train.training.resume import Checkpoints
from vita_train.training.step_plan import StepPlan
from vita_train.training.trainer import Loop
from vita_train.training.watchdog import Watchdog

case: dict[str, Any] = json.loads(sys.argv[2])
root = Path(sys.argv[1])


class Faulty(ToyObjective):
    """Dropout noise makes the loss depend on the random state; a fault happens at a chosen step of
    a chosen rank."""

    phases = tuple(case.get("phases", ("main",)))

    def train_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        if len(self.phases) == 1:
            return self.parameters()
        return self.llm.parameters() if phase == "main" else self.projector.parameters()

    def forward(self, batch: ToyBatch, phase: str = "main") -> LossOutput:
        output = super().forward(batch, phase)
        noise = torch.rand(()) if self.training else torch.zeros(())
        if not self.training and self.done >= case.get("dev_poisoned_from", 10**9):
            return replace(output, metrics={"loss": (float("nan"), output.count)})
        if (
            self.training
            and phase == case.get("poisoned_phase", "main")
            and self.done in case.get("poisoned", ())
        ):
            noise = noise * float("nan")
        return LossOutput(output.loss_sum * (1 + 0.01 * noise), output.count, output.metrics)

    done = 0

    def after_step(self, step: int) -> None:
        self.done = step + 1
        time.sleep(case.get("pause", 0.0))
        fault = case.get("fault", {})
        if fault.get("step") != step or fault.get("rank", 0) != self.context.rank:
            return
        if fault["kind"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault["kind"] == "ruin":  # the first tensor whose name has this in it
            tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
            with torch.no_grad():
                next(tensor for name, tensor in tensors.items() if fault["tensor"] in name).view(
                    -1
                )[0] = float("inf")
        if fault["kind"] == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        if fault["kind"] == "stall":
            time.sleep(60)


def collate_readable(samples: Sequence[Any], *, seed: int) -> ToyBatch:
    """As the toy's, but the files of some samples are gone."""
    for sample in samples:
        if sample.id in case["unreadable"]:
            raise DataError("cannot be read", code="VT-DATA-009", where=sample.id)
    return collate(samples, seed=seed)


def main() -> int:
    """Train; return the exit code that the command line would have."""
    world = world_from_environment()
    recipe = toy_recipe(
        engine=case.get("engine", {}),
        checkpoint_interval=2,
        batch={"global_batch_size": 8, "grad_accum": case.get("accumulate", 1)},
        **{"eval": {"batches": 1}, **(case.get("stage") or {"steps": 8})},
    )
    spec = recipe.stages["1.2"]
    logs = root / "run" / "1.2" / "logs"
    store = open_store(str(root))
    watchdog = Watchdog(
        case.get("timeout", 60.0), lambda error: write_outcome(logs, world.rank, error)
    )
    try:
        with process_group(world, timeout=300, always=True), peer_errors():
            objective = Faulty(toy_context(recipe, "1.2", world.rank, world.size), toy_modules())
            if "unreadable" in case:
                objective.collate = collate_readable
            apply_trainable(objective, spec.trainable)
            engine = build_engine(
                objective,
                EngineContext(spec, world, getattr(torch, spec.engine.dtype or "float32")),
            )
            checkpoints = Checkpoints(
                store, "run/1.2", world, "digest", keep_last=4, extend=spec.extend
            )
            counters = Counters(**(checkpoints.restore(engine) or {}))
            checkpoints.begin()
            plan = StepPlan(spec, spec.most_steps or 0)
            run_log = RunLog(root / "run" / "1.2" if world.rank == 0 else None, plan.end)
            run_log.rewind(counters.step)
            Loop(
                objective,
                engine,
                spec,
                world,
                0,
                plan,
                objective.order(),
                run_log,
                checkpoints,
                watchdog,
                most_unreadable=case.get("most_unreadable", 0),
            ).run(counters)
            (root / f"counters-{world.rank}.json").write_text(json.dumps(vars(counters)))
            engine.close()
    except VitaError as error:
        write_outcome(logs, world.rank, error)
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    run_rank(main)
