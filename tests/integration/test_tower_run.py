"""A run with each vision tower through the real steps: prepared, trained, resumed, exported, talked
to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.small_towers import TOWERS
from vita_train.inference.chat import open_chat
from vita_train.pipeline.steps import evaluate_step, export_step, fetch_step, prepare_step
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.run import Run
from vita_train.training.stage import run_stage

pytestmark = pytest.mark.timeout(1200)

COLOURS = ("red", "lime", "blue", "white")
STEPS = 60
RECIPE = """\
name: tower
tokenizer: {{vocab_size: 400}}
model:
  dtype: float32
  llm: {{vocab_size: 400, hidden_size: 32, num_layers: 2, num_heads: 4,
        num_kv_heads: 2, intermediate_size: 48,
         max_positions: 256, rope_theta: 10000.0}}
  vision: {vision}
  projector: {{kind: {projector}}}
  speech_decoder: {{width: 16, num_heads: 2}}
data: {{source: {{own: {{kind: records, registry: {registry}}}}}, image: {{max_tiles: 1}}}}
storage: {{root: {root}}}
stages:
  "1.2":
    objective: next_token
    data: {{pictures: 1.0}}
    trainable: {{llm: 1.0e-2, projector: 5.0e-3, vision: 5.0e-3}}
    steps: {steps}
    checkpoint_interval: 30
    batch: {{global_batch_size: 2, seq_len: 256}}
    eval: {{batches: 0}}
"""


def pictures(root: Path) -> Path:
    """Write an image of every colour and what it is asked; return the registry."""
    records: list[dict[str, Any]] = []
    for colour in COLOURS:
        Image.new("RGB", (80, 80), colour).save(root / f"{colour}.png")
        turns = [
            {"from": "human", "value": "<image>colour?"},
            {"from": "gpt", "value": f"{colour}."},
        ]
        records.append({"conversations": turns, "image": f"{colour}.png", "set": "drawn"})
    (root / "many.json").write_text(json.dumps(records * 4))
    (root / "few.json").write_text(json.dumps(records))
    splits = {
        split: {"records": f"{name}.json", "roots": {"drawn": "."}}
        for split, name in (("train", "many"), ("test", "few"))
    }
    path = root / "registry.json"
    path.write_text(
        json.dumps(
            {"format": "vita-train/registry/v1", "datasets": {"pictures": {"task": "qa", **splits}}}
        )
    )
    return path


def recipe_of(tower: str, projector: str, root: Path) -> Recipe:
    return load_recipe(
        RECIPE.format(
            vision=json.dumps(TOWERS[tower]),
            projector=projector,
            registry=pictures(root),
            root=root / "runs",
            steps=STEPS,
        )
    )


@pytest.mark.parametrize(
    ("tower", "projector"),
    [
        ("siglip", "spp_v2"),
        ("clip", "ldp"),
        ("eva_clip", "linear"),
        pytest.param("siglip s2", "spp_v2", marks=pytest.mark.slow),
    ],
)
def test_a_tower_from_records_to_a_conversation(
    tower: str, projector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    recipe = recipe_of(tower, projector, tmp_path)
    run = Run(recipe, "mine")
    run.write_recipe()
    fetch_step(run)
    prepare_step(run)
    trained = run_stage(run, "1.2")
    # As if it had been killed half way: the end and the last checkpoint are gone.
    stage = run.dir / "1.2"
    (stage / "final.json").unlink()
    (stage / "committed" / f"step-{STEPS:08}.json").unlink()
    resumed = run_stage(run, "1.2")
    assert trained is not None
    assert resumed is not None
    assert {name: [file.sha256 for file in ref.files] for name, ref in resumed.modules.items()} == {
        name: [file.sha256 for file in ref.files] for name, ref in trained.modules.items()
    }
    evaluate_step(run)
    export_step(run)
    for place in (run.dir, run.dir / "export" / "model"):
        chat = open_chat(str(place))
        for colour in COLOURS:
            chat.reset()
            assert "".join(chat.ask("colour?", images=[tmp_path / f"{colour}.png"])) == f"{colour}."
