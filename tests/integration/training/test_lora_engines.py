"""Adapters train alike under every engine, resume exactly, and only they are saved and gathered."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.training.test_engines import ENGINES, run_cases

# Two ranks on a machine that does other work too may take minutes.
pytestmark = pytest.mark.timeout(1800)

#: Engines that adapters are promised for; quantised weights only under those that leave matrices
#: whole.
ADAPTED = ("ddp", "fsdp2", "zero2", "zero3")
QUANTISED = ("ddp", "zero2")
KINDS = ("nf4", "fp4", "int8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tmp = tmp_path_factory.mktemp("lora")
    two: dict[str, Any] = {name: {"engine": ENGINES[name], "lora": {}} for name in ADAPTED}
    two |= {
        f"{name} resumed": {"engine": ENGINES[name], "lora": {}, "resume": 2} for name in ADAPTED
    }
    two |= {
        f"{name} nf4": {"engine": ENGINES[name], "lora": {}, "quantize": {"kind": "nf4"}}
        for name in QUANTISED
    }
    two |= {
        f"{name} int8 resumed": {
            "engine": ENGINES[name],
            "lora": {},
            "quantize": {"kind": "int8"},
            "resume": 2,
        }
        for name in QUANTISED
    }
    two |= {
        f"{name} bfloat16": {"engine": ENGINES[name] | {"dtype": "bfloat16"}, "lora": {}}
        for name in ("ddp", "zero2", "zero3")
    }
    two["zero2 nf4 bfloat16"] = {
        "engine": ENGINES["zero2"] | {"dtype": "bfloat16"},
        "lora": {},
        "quantize": {"kind": "nf4"},
    }
    plain = {"kind": "torch"}
    one: dict[str, Any] = {
        "one": {"engine": plain, "lora": {}},
        "biases": {"engine": plain, "lora": {"bias": "all"}},
        "dropout": {"engine": plain, "lora": {}, "dropout": 0.2},
        "dropout resumed": {"engine": plain, "lora": {}, "dropout": 0.2, "resume": 1},
        "frozen nf4": {
            "engine": plain,
            "trainable": {"projector": 1e-2},
            "quantize": {"kind": "nf4"},
        },
    }
    one |= {
        f"one {kind}": {"engine": plain, "lora": {}, "quantize": {"kind": kind}} for kind in KINDS
    }
    return run_cases(tmp, "two", two, worker="lora_worker") | run_cases(
        tmp, "one", one, worker="lora_worker", count=1
    )


def close(trained: dict[str, Any], name: str, reference: str, rel: float = 1e-5) -> None:
    assert trained[name]["losses"] == pytest.approx(trained[reference]["losses"], rel=rel)
    assert trained[name]["sums"] == pytest.approx(trained[reference]["sums"], rel=rel)


@pytest.mark.parametrize("suffix", ["", " resumed"])
@pytest.mark.parametrize("engine", ADAPTED)
def test_adapters_train_as_in_one_process(
    trained: dict[str, Any], engine: str, suffix: str
) -> None:
    close(trained, engine + suffix, "one")
    assert trained[engine + suffix]["tensors"] == trained["one"]["tensors"]


@pytest.mark.parametrize("engine", QUANTISED)
def test_quantised_training_does_not_depend_on_ranks_or_on_a_stop(
    trained: dict[str, Any], engine: str
) -> None:
    close(trained, f"{engine} nf4", "one nf4")
    close(trained, f"{engine} int8 resumed", "one int8")


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_training_lowers_the_loss_as_far_as_full_precision(
    trained: dict[str, Any], kind: str
) -> None:
    losses, whole = trained[f"one {kind}"]["losses"], trained["one"]["losses"]
    assert losses != whole
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 0.9 * (whole[0] - whole[-1])


@pytest.mark.parametrize(
    "name", ["ddp bfloat16", "zero2 bfloat16", "zero3 bfloat16", "zero2 nf4 bfloat16"]
)
def test_bfloat16_stays_near_float32(trained: dict[str, Any], name: str) -> None:
    assert trained[name]["losses"] == pytest.approx(
        trained["one nf4" if "nf4" in name else "one"]["losses"], rel=1e-2
    )


def test_dropout_goes_on_exactly_after_a_stop(trained: dict[str, Any]) -> None:
    assert trained["dropout resumed"]["losses"] == trained["dropout"]["losses"]
    assert trained["dropout"]["losses"] != trained["one"]["losses"]


def test_only_adapters_and_modules_that_train_are_gathered(trained: dict[str, Any]) -> None:
    assert set(trained["one"]["tensors"]) == {"llm", "projector"}
    assert len(trained["one"]["tensors"]["llm"]) == 2 * 2 * 7
    assert all(".lora_" in name for name in trained["one"]["tensors"]["llm"])
    biases = {name for name in trained["biases"]["tensors"]["llm"] if name.endswith("bias")}
    assert len(biases) == 2 * 3  # queries, keys and values
    assert trained["biases"]["losses"] != trained["one"]["losses"]


def test_a_checkpoint_of_quantised_training_holds_no_matrices(trained: dict[str, Any]) -> None:
    assert trained["ddp resumed"]["bytes"] == pytest.approx(
        trained["ddp int8 resumed"]["bytes"], rel=0.05
    )


def test_the_projector_trains_through_a_quantised_language_model(trained: dict[str, Any]) -> None:
    losses = trained["frozen nf4"]["losses"]
    assert set(trained["frozen nf4"]["tensors"]) == {"projector"}
    assert losses[-1] < losses[0]
