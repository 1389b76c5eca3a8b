"""The estimate against what a step really takes, and what is said where it does not fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vita_train.planning.devices import Device
from vita_train.planning.estimate import Estimate, estimate_stage
from vita_train.planning.fit import lacks, smallest_change
from vita_train.planning.fragments import CachingAllocator
from vita_train.planning.parameters import count_parameters
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


def test_what_is_imported_while_a_step_is_traced_can_be_used_afterwards() -> None:
    code = """
from vita_train.planning.step_trace import trace_step
from vita_train.recipe.load import load_recipe
trace_step(load_recipe("smoke", ["launch.nproc=1"]), "2.1b", rows=1)
import torch
from torchaudio.compliance.kaldi import fbank
print(bool(torch.isfinite(fbank(torch.randn(1, 1600))).all()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


def test_less_is_kept_the_more_is_computed_again() -> None:
    shallow = ["model.llm.num_layers=2", "model.vision.num_layers=2", "launch.nproc=1"]
    recipe = load_recipe("tiny", ["stages.1.2.batch.global_batch_size=2", *shallow])
    weights = 4 * sum(count_parameters(recipe.model, ["llm", "vision", "projector"]).values())
    kept = []
    for policy in ("off", "selective", "full"):
        names = policies_of(recipe, "1.2", 2)
        chosen = dict.fromkeys(["llm", "vision"], policy)
        traced = trace_step(recipe, "1.2", rows=2, policies=chosen)
        assert names == dict.fromkeys(names, "off")
        assert traced is not None
        kept.append(traced.parts["activations"])
        assert traced.parts["weights"] == pytest.approx(weights, rel=0.01)
    assert kept[0] > kept[1] > kept[2]


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_a_change_that_fits() -> None:
    settings = [
        "stages.1.2.batch.global_batch_size=4",
        "stages.1.2.optim.kind=adamw",
        "model.llm.num_layers=2",
        "model.vision.num_layers=2",
        "launch.nproc=1",
    ]
    recipe = load_recipe("tiny", settings)
    needed = _estimate("tiny", "1.2", settings).memory.total
    small = _CPU.model_copy(update={"memory": 0.3 * needed / 1e9})
    estimate = _estimate("tiny", "1.2", settings, small)
    assert "GB of each device" in lacks(estimate, small)
    assert not lacks(estimate, _CPU)
    assert "of a node's" in lacks(estimate, _CPU, 10**9)
    change = smallest_change(recipe, "1.2", small)
    assert change is not None
    changed = load_recipe("tiny", [*settings, *change.settings])
    again = estimate_stage(changed, "1.2", small)
    assert again is not None
    assert not lacks(again, small)
    assert again.memory == change.estimate.memory
    nothing = small.model_copy(update={"memory": 0.001})
    assert smallest_change(recipe, "1.2", nothing) is None


def test_the_allocator_reuses_joins_and_keeps() -> None:
    mib = 1 << 20
    allocator = CachingAllocator()
    # Two pieces of 12 MiB in segments of their own; let go, they serve 12 MiB but not 20.
    assert allocator.play([(1, 12 * mib), (2, 12 * mib)]) == 24 * mib
    assert allocator.play([(1, 0), (3, 12 * mib)]) == 24 * mib
    assert allocator.play([(2, 0), (4, 20 * mib)]) == 44 * mib
    # Three of 4 MiB share a segment of 20; neighbours that are free become one of 8.
    pieces = CachingAllocator()
    assert pieces.play([(5, 4 * mib), (6, 4 * mib), (7, 4 * mib), (8, 4 * mib)]) == 20 * mib
    assert pieces.play([(5, 0), (6, 0), (9, 8 * mib)]) == 20 * mib
    # What is small comes from segments of 2 MiB.
    assert CachingAllocator().play([(1, 100), (2, 100)]) == 2 * mib


def test_adapters_and_quantised_matrices_take_less() -> None:
    settings = [
        "stages.1.2.batch.global_batch_size=2",
        "stages.1.2.optim.kind=adamw",
        "stages.1.2.trainable={llm: 1.0e-4}",
        "model.llm.num_layers=2",
        "model.vision.num_layers=2",
    ]
    adapted = [*settings, "stages.1.2.lora={rank: 4, modules: [llm]}"]
    quantised = [*adapted, "stages.1.2.quantize={kind: nf4}"]
    whole, part, bits = (_estimate("tiny", "1.2", sets) for sets in (settings, adapted, quantised))
    assert part.memory.optimizer == pytest.approx(8 * part.plan.trained["llm"], rel=0.05)
    assert whole.memory.optimizer == pytest.approx(8 * whole.plan.trained["llm"], rel=0.05)
    saved = part.memory.weights - bits.memory.weights
    assert saved == 4 * bits.plan.quantized - bits.plan.quantized_bytes
