"""The benchmark for GPUs, at the smallest sizes on a processor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.drawn import alone_settings, built, drawn_batch
from benchmarks.gpu import steps


def test_stages_are_measured_and_carried_on_to_the_full_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--recipe smoke --device cpu --depths 1 2 --steps 1 --samples 4 --only 1.1 3.2"
    monkeypatch.setattr(sys, "argv", ["steps", *words.split(), "--out", str(tmp_path)])
    steps.main()
    found = json.loads((tmp_path / "steps.json").read_text())
    sides = {(side["stage"], side["side"], side["layers"]): side for side in found["sides"]}
    assert {key[:2] for key in sides} == {("1.1", "ours"), ("1.1", "public"), ("3.2", "ours")}
    ours, public = sides["1.1", "ours", 2], sides["1.1", "public", 2]
    # The same samples: as many tokens, whatever is put around them
    assert ours["tokens"] == public["tokens"]
    assert ours["flops"] == public["flops"] > sides["1.1", "ours", 1]["flops"] > 0
    assert ours["positions"] >= ours["tokens"]
    assert all(side["seconds"] > 0 for side in sides.values())
    assert ours["planned"] > 0
    assert "times as fast" in (tmp_path / "steps.md").read_text()


def test_what_samples_take_is_counted_by_what_trains() -> None:
    """Frozen before all that trains 2, passed through 4, trained 6 FLOP a parameter and position;
    half of the text is asked for of the head."""
    recipe = steps.load_recipe("smoke", ["model.llm.num_layers=1"])
    objective, _ = built(recipe, "1.1", steps.torch.device("cpu"))
    tile = recipe.model.tile_tokens.merged
    lengths = steps.np.array([[tile + 8, 1, 0, 4]])
    batch = drawn_batch(recipe, [lengths])
    modules = objective.model_modules()

    def size(*names: str) -> int:
        return sum(p.numel() for name in names for p in modules[name].parameters())

    blocks = sum(p.numel() for p in modules["llm"].model.layers.parameters())
    head = modules["llm"].lm_head.weight.numel()
    seen = modules["vision"].spec.positions
    assert steps._flops(objective, batch) == (
        4 * (blocks * (tile + 8) + head * 4)
        + 2 * size("vision") * seen
        + 6 * size("projector") * tile
    )


def test_a_layers_share_is_carried_on_to_the_full_depth() -> None:
    def side(name: str, layers: int, seconds: float) -> steps.Side:
        return steps.Side("1.1", name, layers, seconds, 1000, 1250, 0.0, 0, 0)

    measured = [side("ours", 2, 1.5), side("ours", 4, 2.0)]
    measured += [side("public", 2, 2.0), side("public", 4, 4.0)]
    text = steps.table(measured, 28, "processor", "named", [])
    assert "| 1.1 | ours | 28 | 8.000 | 125 |" in text
    assert "| 1.1 | public | 28 | 28.000 | 36 |" in text
    assert "ours is 3.50 times as fast" in text


def test_micro_batches_are_those_of_the_shipped_ranks() -> None:
    shipped = steps.load_recipe("vita-1.5-7b")
    for stage in ("1.1", "2.1a"):
        alone = ["launch.nodes=1", "launch.nproc=1", *alone_settings(shipped, stage)]
        here = steps.load_recipe("vita-1.5-7b", alone).stages[stage].batch
        assert here.micro_rows(1) == shipped.stages[stage].batch.micro_rows(shipped.launch.ranks)
