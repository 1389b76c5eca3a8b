"""Time of a training step with a frozen language model against the same step with everything
trained.

    python benchmarks/frozen_step.py [--recipe tiny] [--steps 40]

Both steps run in one process, in turn, on the same batches, so that whatever else the machine does
falls on both. The target is a ratio of at most 0.75.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch

from vita_train.data.loading.batch import Batch
from vita_train.models.build import build_modules
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import IMAGE_ID
from vita_train.training.engines.base import Engine, EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.base import StageContext
from vita_train.training.objectives.next_token import NextTokenObjective
from vita_train.training.parallel.distributed import World

NAMES = ("llm", "vision", "projector")


class PictureObjective(NextTokenObjective):
    """The objective of stage 1.1 without a corpus."""

    @classmethod
    def modules_used(cls, spec: Any, corpus: Any) -> tuple[str, ...]:
        """Return the modules of the vision path."""
        return NAMES


def main() -> None:
    """Measure and print the two medians and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=8)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, [])
    batch = make_batch(recipe, arguments.rows)
    engines = {
        "frozen": make_engine(recipe, {"projector": 1e-4}),
        "trained": make_engine(recipe, {name: 1e-4 for name in NAMES}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(arguments.steps):
        for name, engine in engines.items():
            started = time.perf_counter()
            engine.forward_backward(batch, "main", 1 / engine.objective.weight(batch), last=True)
            engine.step("main", 1.0)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    ratio = medians["frozen"] / medians["trained"]
    print(
        f"{arguments.recipe}, {arguments.rows} rows of {batch.input_ids.shape[1]} positions, "
        f"{torch.get_num_threads()} threads: frozen {medians['frozen'] * 1e3:.1f} ms, "
        f"trained {medians['trained'] * 1e3:.1f} ms, ratio {ratio:.3f}"
    )


def make_engine(recipe: Recipe, trainable: dict[str, float]) -> Engine:
    """Return an engine over freshly drawn modules."""
    stage = {
        "objective": "next_token",
        "data": {"caption": 1.0},
        "steps": 100,
        "trainable": trainable,
    }
    recipe = Recipe.model_validate({**recipe.model_dump(), "stages": {"1.1": stage}})
    spec = recipe.stages["1.1"]
    world = World(0, 1, 0, torch.device("cpu"))
    corpus: Any = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0))
    context = StageContext(
        recipe=recipe,
        stage="1.1",
        spec=spec,
        corpus=corpus,
        device=world.device,
        dtype=torch.float32,
        rank=0,
        world=1,
        seed=0,
    )
    objective = PictureObjective(context, build_modules(recipe.model, NAMES))
    apply_trainable(objective, trainable)
    return build_engine(objective, EngineContext(spec, world, torch.float32))


def make_batch(recipe: Recipe, rows: int, length: int = 256, images: int = 3) -> Batch:
    """Return rows of three documents, each an image and text of which half is supervised."""
    generator = torch.Generator().manual_seed(0)
    tokens, side = recipe.model.tokens_per_tile, recipe.model.vision.tile_size
    ids = torch.randint(1, recipe.model.llm.vocab_size, (rows, length), generator=generator)
    labels = torch.full_like(ids, -100)
    documents, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    each = length // images
    for number in range(images):
        part = slice(number * each, (number + 1) * each)
        ids[:, part.start : part.start + tokens] = IMAGE_ID
        labels[:, part.stop - (each - tokens) // 2 : part.stop] = ids[
            :, part.stop - (each - tokens) // 2 : part.stop
        ]
        documents[:, part], positions[:, part] = number + 1, torch.arange(each)
    tiles = torch.randint(
        0, 256, (rows * images, 3, side, side), dtype=torch.uint8, generator=generator
    )
    return Batch(
        ids,
        labels,
        positions,
        documents,
        tiles,
        None,
        None,
        [str(row) for row in range(rows)],
        frozenset({"image"}),
    )


if __name__ == "__main__":
    main()
