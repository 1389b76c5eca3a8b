"""VILA's recipes: compiled, planned and built without weights; and its chain from annotations over
a web of our own to a trained stage whose held-out loss falls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vita_train.data.index.corpus import Corpus
from vita_train.data.sources.fetch import fetch_all
from vita_train.data.sources.reading import Row, read_records
from vita_train.data.sources.registry import load_registry, resolve
from vita_train.evaluation.measures import measure
from vita_train.models.build import build_modules
from vita_train.pipeline.compiled import compile_pipeline
from vita_train.pipeline.steps import fetch_step, prepare_step
from vita_train.planning.plan import plan_recipe
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.sources import SynthWebSource
from vita_train.runs.run import Run
from vita_train.training.stage import run_stage

pytestmark = pytest.mark.timeout(1200)

#: Parameters by the shapes that are published, biases and norms counted.
LLM_3B = 32000 * 2560 * 2 + 32 * (4 * 2560**2 + 3 * 2560 * 6912 + 2 * 2560) + 2560
PROJECTOR_3B = 2 * 4 * 1152 + (4 * 1152 + 1) * 2560 + (2560 + 1) * 2560
PROJECTOR_7B = (1024 + 1) * 4096 + (4096 + 1) * 4096


def test_the_real_recipes_are_planned_and_built_on_meta() -> None:
    for name, trained in (
        ("vila-1.5-3b", {"llm": LLM_3B, "projector": PROJECTOR_3B}),
        ("vila-1", {"projector": PROJECTOR_7B}),
    ):
        recipe = load_recipe(name)
        plan = plan_recipe(recipe, ranks=8)
        assert [stage.stage for stage in plan.stages] == ["align", "pretrain", "sft"]
        assert {part: plan.modules[part] for part in trained} == trained
        for stage in plan.stages:
            spec = recipe.stages[stage.stage]
            assert stage.trained == {part: plan.modules[part] for part in spec.trainable}
        with torch.device("meta"):
            modules = build_modules(recipe.model, ("vision", "projector"), seed=0)
        size = recipe.model.vision.tile_size
        tile = torch.zeros(1, 3, size, size, device="meta", dtype=torch.bfloat16)
        tokens = modules["projector"](modules["vision"](tile))
        width = recipe.model.llm.hidden_size
        assert tokens.shape == (1, recipe.model.tokens_per_tile, width)


@pytest.mark.parametrize("name", ["vila-1", "vila-1.5-3b", "vila-tiny"])
def test_the_recipes_compile(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    file = compile_pipeline(recipe, tmp_path / "out", {})
    text = json.dumps(next(yaml.safe_load_all(file.read_text())))
    assert all(f'"train-{stage}"' in text for stage in recipe.stages)


def digests(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "registry.json"
    }


WEB = SynthWebSource(documents=40, pairs=48, test_size=12)


def test_the_web_of_the_world_gives_the_same_records_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fetch_all({"web": WEB}, tmp_path / name, seed=5, workers=1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    path = tmp_path / "a" / "registry.json"
    registry = load_registry(path)
    counts: dict[str, dict[str, int]] = {}
    texts: dict[str, set[str]] = {}
    for name, dataset in registry.datasets.items():
        for split, entry in dataset.splits.items():
            roots = {key: resolve(path, root) for key, root in entry.roots.items()}
            rows = list(read_records(resolve(path, entry.records), roots))
            assert all(isinstance(row, Row) for row in rows)
            counts.setdefault(name, {})[split] = len(rows)
            for row in rows:
                assert isinstance(row, Row)
                assert all(image.path(roots).is_file() for image in row.images)
                texts.setdefault(split, set()).update(row.record.texts)
    # One document in twenty lost an image; the better half of the pairs, four to a record.
    assert counts["documents"] == {"train": 38, "dev": 12, "test": 12}
    assert counts["pairs"] == {"train": 6, "dev": 2, "test": 2}
    assert not texts["train"] & (texts["dev"] | texts["test"])


def small(root: Path) -> Recipe:
    """The recipe of VILA-1.5 3B at a size of seconds, from nothing."""
    stage: dict[str, Any] = {
        "objective": "next_token",
        "data": "documents+pairs@2",
        "trainable": dict.fromkeys(("llm", "projector", "vision"), 3e-3),
        "steps": 60,
        "after": [],
        "batch": {"global_batch_size": 4, "seq_len": 256},
        "eval": {"interval": 0, "batches": 0, "max_samples": 12},
    }
    value = {
        "name": "small",
        "storage": {"root": str(root / "runs")},
        "tokenizer": {"vocab_size": 400},
        "model": {
            "dtype": "float32",
            "llm": {
                "family": "sheared-llama-2.7b",
                "vocab_size": 400,
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 2,
                "num_kv_heads": 2,
                "intermediate_size": 64,
                "max_positions": 256,
            },
            "vision": {
                "kind": "siglip",
                "image_size": 32,
                "patch_size": 8,
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 2,
                "intermediate_size": 64,
            },
            "projector": {"kind": "mlp_downsample"},
            "speech_decoder": {"width": 16, "num_heads": 1},
        },
        "data": {"source": {"web": WEB.model_dump()}, "image": {"max_tiles": 1}},
        "stages": {"pretrain": stage},
    }
    return load_recipe(json.dumps(value))


def test_v20_v21_the_chain_ends_in_a_stage_whose_held_out_loss_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    recipe = small(tmp_path)
    run = Run(recipe, "mine")
    run.write_recipe()
    fetch_step(run)
    prepare_step(run)
    corpus = Corpus.open(run.dir / "prepare" / "corpus")
    untrained = build_modules(recipe.model, ("llm", "vision", "projector"), seed=recipe.seed)
    before = measure(recipe, corpus, untrained)
    trained = run_stage(run, "pretrain")
    assert trained is not None
    for name in ("documents.test.loss", "pairs.test.loss"):
        assert trained.metrics[name] < 0.75 * before[name]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_vila_tiny_goes_from_an_empty_folder_to_a_model_that_answers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vita_train.cli.main", "run", "vila-tiny"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "runs" / "vila-tiny"
    found = {
        stage: json.loads((run / stage / "final.json").read_text())["metrics"]
        for stage in ("align", "pretrain", "sft")
    }
    assert found["pretrain"]["caption.test_seen.loss"] < found["align"]["caption.test_seen.loss"]
    assert found["sft"]["vqa.test_seen.accuracy"] >= 0.6
    assert (run / "export" / "model").is_dir()
