"""Two ranks train the omni model; rank 1 has text only. Rank 0 writes losses per engine."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.helpers.no_source import NO_SOURCE
from vita_train.data.loading.batch import Batch
from vita_train.launch.process import run_rank
from vita_train.models.build import build_modules
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import AUDIO_ID, IMAGE_ID
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.base import StageContext
from vita_train.training.objectives.next_token import NextTokenObjective
from vita_train.training.parallel.distributed import (
    process_group,
    sum_over_ranks,
    world_from_environment,
)

NAMES = ("llm", "vision", "projector", "audio_encoder", "audio_adapter")
MODEL: dict[str, Any] = {
    "dtype": "float32",
    "llm": {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 48,
        "max_positions": 256,
        "rope_theta": 10000.0,
        "tie_embeddings": True,
    },
    "vision": {
        "image_size": 16,
        "patch_size": 4,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 32,
        "drop_path": 0.0,
    },
    "audio_encoder": {
        "width": 16,
        "conv_channels": 8,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_size": 32,
        "dropout": 0.0,
        "dynamic_chunks": False,
        "max_positions": 200,
    },
    "audio_adapter": {"hidden_size": 16},
    "speech_decoder": {"width": 16, "num_heads": 2},
}


class FixedModules(NextTokenObjective):
    """The objective with all modules, whatever the data holds; the state head only where it
    trains."""

    @classmethod
    def modules_used(cls, spec: Any, corpus: Any) -> tuple[str, ...]:
        return NAMES + ("state_head",) * ("state_head" in spec.trainable)


def batch_of(rank: int, step: int) -> Batch:
    """Rank 0: a tile and a clip in its row, not meant for the assistant; other ranks: text."""
    generator = torch.Generator().manual_seed(step)
    text = torch.randint(1, 60, (12,), generator=generator).tolist()
    media = [IMAGE_ID] * 4 + [AUDIO_ID] * 3 if rank == 0 else []
    ids = torch.tensor([media + text])
    labels = ids.clone().masked_fill(ids < 0, -100)
    labels[:, : len(media) + 4] = -100
    length = ids.shape[1]
    tiles = torch.rand(1, 3, 16, 16, generator=generator) if media else None
    clip = torch.randn(1, 24, 80, generator=generator) if media else None
    states = (
        torch.full_like(ids, -100).index_fill(1, torch.tensor([len(media) - 1]), 1)
        if media
        else None
    )
    return Batch(
        ids,
        labels,
        torch.arange(length)[None],
        torch.ones(1, length, dtype=torch.long),
        tiles,
        clip,
        torch.tensor([24]) if media else None,
        [f"toy/train/{step}"],
        frozenset({"image", "audio"}),
        states=states,
    )


def train(
    engine: dict[str, Any], trainable: dict[str, float], llm: dict[str, Any], world: Any
) -> dict[str, Any]:
    """Return the losses of a few steps and sums of the trained weights.

    Args:
        llm: settings of the language model that differ from those above.
    """
    stage = {
        "objective": "next_token",
        "data": {"toy": 1.0},
        "steps": 3,
        "trainable": trainable,
        "engine": engine,
    }
    model = MODEL | {"llm": {**MODEL["llm"], **llm}}
    recipe = Recipe.model_validate(
        {"name": "toy", "data": NO_SOURCE, "model": model, "stages": {"2.2": stage}}
    )
    spec = recipe.stages["2.2"]
    tokenizer = type("Tokenizer", (), {"pad_token_id": 0})()
    corpus: Any = type("Corpus", (), {"tokenizer": tokenizer})()
    dtype = getattr(torch, engine.get("dtype") or "float32")
    context = StageContext(
        recipe=recipe,
        stage="2.2",
        spec=spec,
        corpus=corpus,
        device=world.device,
        dtype=dtype,
        rank=world.rank,
        world=world.size,
        seed=0,
    )
    objective = FixedModules(
        context, build_modules(recipe.model, FixedModules.modules_used(spec, corpus))
    )
    apply_trainable(objective, spec.trainable)
    runner = build_engine(objective, EngineContext(spec, world, dtype))
    losses = []
    for step in range(3):
        ranks = range(world.rank, 2, world.size)
        parts = [batch_of(rank, step) for rank in ranks]
        total = sum_over_ranks([sum(objective.weight(part) for part in parts)])[0]
        loss = 0.0
        for place, part in enumerate(parts):
            part = replace(part, modalities=frozenset({"image", "audio"}))
            loss += float(
                runner.forward_backward(
                    part, "main", 1 / total, last=place == len(parts) - 1
                ).loss_sum
            )
        runner.step("main", 1.0)
        losses.append(sum_over_ranks([loss])[0] / total)
    state = runner.gather() or {}
    runner.close()
    weights = {
        name: float(sum(v.double().abs().sum() for v in part.values()))
        for name, part in state.items()
    }
    return {"losses": losses, "weights": weights}


def main() -> int:
    """Run the cases of a JSON file: name -> {engine, trainable, llm}."""
    cases = json.loads(Path(sys.argv[1]).read_text())
    world = world_from_environment()
    with process_group(world, timeout=300, always=True):
        results = {
            name: train(case["engine"], case["trainable"], case.get("llm", {}), world)
            for name, case in cases.items()
        }
    if world.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    run_rank(main)
