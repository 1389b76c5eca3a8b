"""Every engine computes the same training: same losses, same gradient norms, same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.training import ranks

# Two ranks on a machine that does other work too may take minutes.
pytestmark = pytest.mark.timeout(1200)

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "torch"},
    "fsdp2": {"kind": "fsdp2"},
    **{f"zero{stage}": {"kind": "deepspeed", "zero": stage} for stage in range(4)},
}
#: What trains beside a frozen rest.
TRAINABLE = {
    "all": {"llm": 1e-3, "vision": 1e-3, "projector": 1e-3, "audio_adapter": 1e-3},
    "projector": {"projector": 1e-3},
}


def run_cases(
    tmp: Path, name: str, cases: dict[str, Any], *, worker: str = "engines_worker", count: int = 2
) -> dict[str, Any]:
    cases_file, out = tmp / f"{name}.json", tmp / f"{name}-out.json"
    cases_file.write_text(json.dumps(cases))
    code, output = ranks.run(worker, str(cases_file), str(out), ranks=count)
    assert code == 0, output[-4000:]
    results: dict[str, Any] = json.loads(out.read_text())
    return results


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tmp = tmp_path_factory.mktemp("engines")
    cases = {name: {"engine": engine, "accumulate": 1} for name, engine in ENGINES.items()}
    hsdp = {"engine": {"kind": "fsdp2", "shard": "node"}, "node_size": 1}
    cases |= {
        "ddp accumulate 2": {"engine": {"kind": "torch"}, "accumulate": 2},
        "ddp resumed": {"engine": {"kind": "torch"}, "accumulate": 1, "resume": 3},
        "fsdp2 accumulate 2": {"engine": {"kind": "fsdp2"}, "accumulate": 2},
        "fsdp2 resumed": {"engine": {"kind": "fsdp2"}, "accumulate": 1, "resume": 3},
        "fsdp2 on two nodes": {
            "engine": {"kind": "fsdp2"},
            "accumulate": 1,
            "resume": 3,
            "own_files": True,
        },
        "hsdp resumed": {**hsdp, "accumulate": 2, "resume": 3},
        "hsdp many": {**hsdp, "accumulate": 2, "kept_whole": 0},
        "zero1 accumulate 2": {"engine": {"kind": "deepspeed", "zero": 1}, "accumulate": 2},
        "zero2 resumed": {"engine": {"kind": "deepspeed", "zero": 2}, "accumulate": 1, "resume": 3},
        "zero3 accumulate 4": {"engine": {"kind": "deepspeed", "zero": 3}, "accumulate": 4},
        "zero3 resumed": {"engine": {"kind": "deepspeed", "zero": 3}, "accumulate": 1, "resume": 3},
    }
    alone = {
        "one": {"engine": {"kind": "torch"}, "accumulate": 1},
        "one accumulate 4": {"engine": {"kind": "torch"}, "accumulate": 4},
    }
    return run_cases(tmp, "two", cases) | run_cases(tmp, "one", alone, count=1)


@pytest.mark.parametrize(
    "name",
    [
        *ENGINES,
        "ddp accumulate 2",
        "ddp resumed",
        "fsdp2 accumulate 2",
        "fsdp2 resumed",
        "fsdp2 on two nodes",
        "hsdp resumed",
        "hsdp many",
        "zero1 accumulate 2",
        "zero2 resumed",
        "zero3 accumulate 4",
        "zero3 resumed",
        "one accumulate 4",
    ],
)
def test_same_training_as_one_process(trained: dict[str, Any], name: str) -> None:
    reference, other = trained["one"], trained[name]
    assert other["losses"] == pytest.approx(reference["losses"], rel=1e-5)
    assert other["norms"] == pytest.approx(reference["norms"], rel=1e-4)
    assert other["weights"] == pytest.approx(reference["weights"], rel=1e-5)


def test_ranks_that_divide_the_matrices_of_muon_compute_what_one_does(tmp_path: Path) -> None:
    case = {"engine": {"kind": "torch"}, "accumulate": 1, "optim": {"kind": "muon", "warmup": 2}}
    two = run_cases(tmp_path, "two", {"muon": case})["muon"]
    one = run_cases(tmp_path, "one", {"muon": case}, count=1)["muon"]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
    assert one["losses"][-1] < one["losses"][0]


def test_training_lowers_the_loss(trained: dict[str, Any]) -> None:
    assert trained["one"]["losses"][-1] < 0.8 * trained["one"]["losses"][0]


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The real model on two ranks, of which one has neither image nor clip, and on one process with
    both rows."""
    tmp = tmp_path_factory.mktemp("omni")
    plain, bfloat16 = {"kind": "torch"}, {"dtype": "bfloat16"}
    two: dict[str, Any] = {
        f"{name} {kind}": {"engine": ENGINES[name], "trainable": trainable}
        for kind, trainable in TRAINABLE.items()
        for name in ("ddp", "fsdp2", "zero3")
    }
    two |= {
        f"{name} bfloat16": {"engine": ENGINES[name] | bfloat16, "trainable": TRAINABLE["all"]}
        for name in ("ddp", "fsdp2", "zero2", "zero3")
    }
    # The loss scale of the plain engine alone
    two["ddp float16"] = {
        "engine": ENGINES["ddp"] | {"dtype": "float16"},
        "trainable": TRAINABLE["all"],
    }
    one = {
        f"one {kind}": {"engine": plain, "trainable": trainable}
        for kind, trainable in TRAINABLE.items()
    }
    return run_cases(tmp, "two", two, worker="omni_worker") | run_cases(
        tmp, "one", one, worker="omni_worker", count=1
    )


@pytest.mark.parametrize("kind", [*TRAINABLE])
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero3"])
def test_text_only_rank_does_not_hang(omni: dict[str, Any], engine: str, kind: str) -> None:
    result, reference = omni[f"{engine} {kind}"], omni[f"one {kind}"]
    assert result["losses"] == pytest.approx(reference["losses"], rel=1e-5)
    assert result["weights"] == pytest.approx(reference["weights"], rel=1e-5)


@pytest.mark.parametrize(
    "how", ["ddp bfloat16", "fsdp2 bfloat16", "zero2 bfloat16", "zero3 bfloat16", "ddp float16"]
)
def test_half_precision_stays_near_float32(omni: dict[str, Any], how: str) -> None:
    losses = omni[how]["losses"]
    assert losses == pytest.approx(omni["one all"]["losses"], rel=2e-3)
    assert losses[-1] < losses[0]


def test_experts_and_a_state_head_train_alike_under_every_engine(tmp_path: Path) -> None:
    """The load-balancing loss reaches routers past the blocks' outputs; one rank alone has a clip
    to label."""
    case = {
        "trainable": {"llm": 1e-3, "audio_adapter": 1e-3, "state_head": 1e-3},
        "llm": {
            "family": "mixtral-8x7b",
            "moe": {"num_local_experts": 4, "router_aux_loss_coef": 1.0},
        },
    }
    two = run_cases(
        tmp_path,
        "two",
        {name: {**case, "engine": ENGINES[name]} for name in ("ddp", "fsdp2", "zero3")},
        worker="omni_worker",
    )
    one = run_cases(
        tmp_path,
        "one",
        {
            "one": {**case, "engine": {"kind": "torch"}},
            "half": {**case, "engine": {"kind": "torch", "dtype": "bfloat16"}},
        },
        worker="omni_worker",
        count=1,
    )
    for result in two.values():
        assert result["losses"] == pytest.approx(one["one"]["losses"], rel=1e-5)
        assert result["weights"] == pytest.approx(one["one"]["weights"], rel=1e-5)
    assert one["half"]["losses"] == pytest.approx(one["one"]["losses"], rel=2e-2)
