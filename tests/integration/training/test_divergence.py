"""Gradients and weights that are not finite: left out, counted, never committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.training import ranks
from vita_train.errors import EXIT_FAILED

pytestmark = pytest.mark.timeout(600)


def committed(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "run" / "1.2" / "committed").glob("*.json"))


def events(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "run" / "1.2" / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("engine", [{}, {"kind": "fsdp2"}], ids=["torch", "fsdp2"])
def test_a_step_whose_gradients_are_not_finite_is_left_out(tmp_path: Path, engine: dict[str, Any]) -> None:
    code, output = ranks.train(tmp_path, {"engine": engine, "poisoned": [3]}, ranks=1)
    assert code == 0, output[-4000:]
    assert "step 4: the gradients of" in output
    losses = ranks.losses(tmp_path)
    assert losses[4] == losses[3], "the interval without a loss repeats the last one"
    assert losses[8] < losses[1]
    counted = [row["skipped"] for row in events(tmp_path) if "skipped" in row]
    assert counted == [1] * 5, "from the step that was left out to the last"
    assert committed(tmp_path)[-1] == "step-00000008.json"


def test_several_in_a_row_end_the_stage_and_name_modules_samples_and_the_good_checkpoint(tmp_path: Path) -> None:
    code, output = ranks.train(tmp_path, {"stage": {"steps": 20}, "poisoned": list(range(3, 20))})
    assert code == EXIT_FAILED, output[-4000:]
    told = ranks.outcome(tmp_path, 0)
    assert "llm" in told["what"]
    assert "up to step 8" in told["what"]
    assert "toy/train/" in told["where"]
    assert "checkpoint after step 6 is good" in told["remedy"]
    assert committed(tmp_path) == ["step-00000002.json", "step-00000004.json", "step-00000006.json"]


def test_ruined_weights_are_not_saved(tmp_path: Path) -> None:
    # Each step multiplies the weights by -999, whatever the gradients.
    ruinous = {"steps": 30, "save_every": 30, "trainable": {"llm": 100, "projector": 1e-3},
               "optim": {"warmup": 0, "schedule": "constant", "weight_decay": 10}}
    code, output = ranks.train(tmp_path, {"stage": ruinous}, ranks=1)
    assert code == EXIT_FAILED, output[-4000:]
    assert "not finite" in ranks.outcome(tmp_path, 0)["what"]
    assert not committed(tmp_path)
