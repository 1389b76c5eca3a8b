"""The estimate against what a step really takes, and what is said where it does not fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vita_train.planning.devices import Device
from vita_train.planning.estimate import Estimate, estimate_stage
from vita_train.planning.fit import lacks, smallest_change
from vita_train.planning.step_trace import policies_of, trace_step
from vita_train.recipe.load import load_recipe

#: Objectives, what trains, what is computed again, depth, width and micro-batches all differ.
SHAPES = {
    "a frozen language model": ("tiny", "1.1", ["stages.1.1.batch.global_batch_size=3"]),
    "everything, blocks computed again": (
        "tiny",
        "1.2",
        [
            "stages.1.2.batch.global_batch_size=2",
            "stages.1.2.engine.checkpoint_activations=true",
            "stages.1.2.optim.kind=adamw",
            "model.llm.num_layers=6",
        ],
    ),
    "pictures and clips in two micro-batches": (
        "tiny",
        "2.2",
        ["stages.2.2.batch.global_batch_size=4", "stages.2.2.batch.grad_accum=2"],
    ),
    "clips alone": (
        "tiny",
        "2.1a",
        ["stages.2.1a.batch.global_batch_size=2", "data.audio.max_seconds=6"],
    ),
    "a wide language model, long rows": (
        "tiny",
        "0.llm",
        [
            "stages.0.llm.batch.global_batch_size=1",
            "stages.0.llm.batch.seq_len=768",
            "model.llm.hidden_size=320",
            "model.llm.intermediate_size=896",
            "model.llm.num_layers=2",
        ],
    ),
}
_CPU = Device(memory=16, bandwidth=10, float32=0.1, rounding=64, caches=False)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, int]]:
    shapes = [(name, stage, [*sets, "launch.nproc=1"]) for name, stage, sets in SHAPES.values()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.step_memory", json.dumps(shapes)],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(SHAPES, json.loads(done.stdout.splitlines()[-1]), strict=True))


def _estimate(name: str, stage: str, settings: list[str], device: Device = _CPU) -> Estimate:
    estimate = estimate_stage(load_recipe(name, [*settings, "launch.nproc=1"]), stage, device)
    assert estimate is not None
    return estimate


@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_is_within_a_tenth_of_what_a_step_takes(
    shape: str, measured: dict[str, dict[str, int]]
) -> None:
    estimate = _estimate(*SHAPES[shape]).memory.total
    assert estimate == pytest.approx(measured[shape]["allocator"], rel=0.1)
