"""A run that learns to count: smoke's model, a page of text, and one stage of a few steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vita_train.recipe.presets import preset_path

#: A program that fetches and prepares the run ``r`` of the recipe that is its argument.
PREPARE = """
import sys
from vita_train.pipeline import steps
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run

run = Run(load_recipe(sys.argv[1]), "r")
steps.fetch_step(run)
steps.prepare_step(run)
"""


def counting_recipe(folder: Path, launch: Mapping[str, Any], **stage: Any) -> Path:
    """Write the recipe, with its records, and return its file.

    Args:
        folder: gets the files, and ``runs``.
        launch: how jobs are started.
        stage: settings of the stage ``words``, beside those that it has.
    """
    rows = [
        {
            "id": str(number),
            "conversations": [
                {"from": "human", "value": f"count to {number}"},
                {"from": "gpt", "value": " ".join(map(str, range(number)))},
            ],
        }
        for number in range(2, 40)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    splits = {split: {"records": "rows.json"} for split in ("train", "dev", "test")}
    registry = {
        "format": "vita-train/registry/v1",
        "datasets": {"counting": {"task": "qa", **splits}},
    }
    (folder / "registry.json").write_text(json.dumps(registry))
    smoke = preset_path("smoke")
    assert smoke is not None
    of_smoke = yaml.safe_load(smoke.read_text())
    settings: dict[str, Any] = {
        **{key: of_smoke[key] for key in ("model", "tokenizer")},
        "name": "desk",
        "storage": {"root": str(folder / "runs")},
        "data": {
            "source": {"mine": {"kind": "records", "registry": str(folder / "registry.json")}}
        },
        "stages": {
            "words": {
                "objective": "next_token",
                "data": {"counting": 1.0},
                "trainable": {"llm": 1e-3},
                "steps": 2,
                "batch": {"global_batch_size": 2, "seq_len": 256},
                "eval": {"batches": 1, "max_samples": 2},
                **stage,
            }
        },
        "launch": dict(launch),
    }
    path = folder / "desk.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path
