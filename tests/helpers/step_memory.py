"""What steps of stages really take of a processor's memory, measured in this process:

    python -m tests.helpers.step_memory '[["tiny", "1.1", ["launch.nproc=1"]], ...]'

prints a JSON list: for each the bytes that torch's allocator held at most, counted from its own
reports, and by how much the resident memory of the process grew.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vita_train.planning.step_trace import build_objective
from vita_train.recipe.load import load_recipe
from vita_train.training.engines.base import EngineContext, compute_dtype
from vita_train.training.engines.torch import TorchEngine
from vita_train.training.parallel.distributed import ALONE

#: The second step finds the optimizer's state already there.
_STEPS = 2


def measure(name: str, stage: str, settings: list[str]) -> dict[str, int]:
    """Train full micro-batches for two steps and return the bytes that were held at most."""
    recipe = load_recipe(name, settings)
    spec = recipe.stages[stage]
    rows = -(-spec.batch.global_batch_size // (recipe.launch.ranks * spec.batch.grad_accum))
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest mark begins anew
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        objective = build_objective(recipe, stage, rows=rows)
        for parameter in objective.parameters():
            nn.init.normal_(parameter, std=0.02)
        dtype = compute_dtype(recipe, spec)
        engine = TorchEngine(objective, EngineContext(spec, ALONE, dtype))
        for _ in range(_STEPS):
            batch = objective.largest_batch(rows)
            for phase in objective.phases:
                for part in range(spec.batch.grad_accum):
                    last = part == spec.batch.grad_accum - 1
                    engine.forward_backward(batch, phase, 1e-4, last=last)
                assert torch.isfinite(torch.as_tensor(engine.step(phase, 1.0)))
    resident = _resident("VmHWM") - before
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = highest = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        held += size
        highest = max(highest, held)
    return {"allocator": highest, "resident": resident}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


if __name__ == "__main__":
    found = []
    for words in json.loads(sys.argv[1]):
        found.append(measure(*words))
        gc.collect()
    print(json.dumps(found))
