"""The benchmark beside the public recipe, at its smallest: both sides train the same samples, and
what makes ours faster changes neither losses nor gradients."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import public_recipe
from benchmarks.public_recipe import STAGES, both_sides, draw_steps, our_backward, small_recipe

#: Stages as they ship, and settings of ours of which each changes one thing.
CASES = {
    **{stage: (stage, []) for stage in STAGES},
    "one document a row": ("2.2", ["stages.2.2.batch.packing=false"]),
    "a mask over documents": ("2.2", ["model.llm.attention=sdpa"]),
    "logits in small chunks": ("2.2", ["stages.2.2.options.chunk=3"]),
    **{
        f"computed again: {asked}": ("2.2", [f"stages.2.2.engine.checkpoint_activations={asked}"])
        for asked in ("true", "selective", "false")
    },
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_the_public_recipe(case: str) -> None:
    stage, settings = CASES[case]
    recipe = small_recipe(stage, 3, settings)
    objective, engine, public = both_sides(recipe, stage, 0)
    (rows,) = draw_steps(recipe, stage, 1, 0)
    padded = public.micro_batches(rows, 0)
    # The same samples: as many positions with a label and without
    real = sum(int(batch.real.sum()) for batch in padded)
    assert sum(objective.tokens(row) for row in rows) == real
    total = sum(objective.weight(row) for row in rows)
    assert sum(int((batch.labels[:, 1:] >= 0).sum()) for batch in padded) == total > 0
    ours = our_backward(engine, rows, total)
    assert ours == pytest.approx(public.backward(padded, total), rel=1e-5)
    theirs = dict(public.omni.named_parameters())
    trained = [(name, value) for name, value in objective.named_parameters() if value.requires_grad]
    assert {name.partition(".")[0] for name, _ in trained} == set(recipe.stages[stage].trainable)
    for name, value in trained:
        expected = theirs[name].grad
        if expected is None or value.grad is None:  # no sample reaches it
            assert not any(grad is not None and grad.any() for grad in (expected, value.grad))
            continue
        # By the whole tensor: single numbers near zero differ by more than their rounding
        difference = torch.linalg.vector_norm(value.grad - expected)
        assert difference <= 1e-4 * torch.linalg.vector_norm(expected) + 1e-9, name


def test_a_stage_is_measured_in_turns_and_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "found.json", "--only 1.1 --turns 2 --rows 1"
    monkeypatch.setattr(sys, "argv", ["public_recipe", *words.split(), "--out", str(out)])
    threads = torch.get_num_threads()
    public_recipe.main()
    torch.set_num_threads(threads)
    turns = json.loads(out.read_text())["stages"]["1.1"]
    assert len(turns) == 2
    assert all(turn["ours_s"] > 0 and turn["public_s"] > 0 for turn in turns)
    assert all(turn["positions"] >= turn["tokens"] > 0 for turn in turns)
    assert max(turn["difference"] for turn in turns) < 1e-5
    assert "| 1.1 |" in capsys.readouterr().out
