"""The recipe ``mini``: what vita-1.5-7b computes, trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.data_world import recipe, small_world
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.training.dry_batch import dry_batches

#: Stage of the recipe, the datasets of the small world that stand for its own, and what it follows.
STAGES: dict[str, tuple[list[str], list[str]]] = {
    "1.2": (["look"], []),
    "2.1a": (["hear"], []),
    "2.2": (["talk", "look", "hear"], ["1.2", "2.1a"]),
    "3.1": (["hear"], []),
    "3.2": (["hear"], ["2.2", "3.1"]),
}


def test_every_kind_of_stage_trains_a_batch(tmp_path: Path) -> None:
    """`tests/integration/test_mini_run.py` walks the whole recipe, marked slow."""
    mini = load_recipe("mini").model_dump(mode="json")
    made: dict[str, Any] = recipe().model_dump(mode="json")
    made["model"] = mini["model"] | {"dtype": "float32"}
    made["data"] |= {"video": mini["data"]["video"], "image": mini["data"]["image"]}
    made["stages"] = {
        stage: mini["stages"][stage]
        | {"data": dict.fromkeys(datasets, 1.0), "after": after}
        | {"batch": mini["stages"][stage]["batch"] | {"seq_len": 1024, "max_tiles": 64}}
        for stage, (datasets, after) in STAGES.items()
    }
    small = Recipe.model_validate(made)
    prepare(small, small_world(tmp_path), tmp_path / "corpus", progress=[].append)
    losses = dry_batches(small, Corpus.open(tmp_path / "corpus"))
    assert set(losses) == set(STAGES)
    assert all(loss > 0 for mixes in losses.values() for loss in mixes.values())
