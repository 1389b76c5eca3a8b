"""Images a second of the captioner's tower with merged tokens, beside the same tower without.

    python benchmarks/token_merging.py [--keep 0.2] [--batch 8] [--distinct 2] [--turns 2]

The tower has the shape of ViT-H/14 at 378 pixels; a few of its blocks are built, and take the
places of all 32, so that little memory is needed and every block works at the length that the
schedule leaves it. Forward passes without gradients, both ways in turns, on one thread, in seconds
of the process. Prints one JSON object; ``wanted`` is 1.4 times as many images a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vita_train.models.build import build_modules
from vita_train.models.vision.tower import VisionTower
from vita_train.recipe.load import load_recipe

WANTED = 1.4
RECIPE = "auroracap-7b"


def build_tower(keep: float, distinct: int) -> VisionTower:
    """Return the tower with merging set to keep a share of its tokens, its blocks repeated."""
    settings = [f"model.vision.merge.keep={keep}", "model.vision.source=null"]
    model = load_recipe(RECIPE, settings).model
    few = model.vision.model_copy(update={"num_layers": distinct + 1})  # the last is left out
    tower = build_modules(model.model_copy(update={"vision": few}), ("vision",), seed=0)["vision"]
    assert isinstance(tower, VisionTower)
    blocks = list(tower.blocks)
    tower.blocks.extend(
        blocks[number % distinct] for number in range(distinct, model.vision.num_blocks)
    )
    tower.spec = model.vision
    return tower.eval()


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time that something takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--distinct", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tower = build_tower(options.keep, options.distinct)
    side = tower.spec.tile_size
    tiles = torch.randn(options.batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    plain: Tensor = tower(tiles[:1])
    left = tower.merged(tiles[:1], tower.spec.removals).hidden.shape[1]
    turns = [
        (
            seconds(lambda: tower(tiles)),
            seconds(lambda: tower.merged(tiles, tower.spec.removals)),
        )
        for _ in range(options.turns)
    ]
    print(
        json.dumps(
            {
                "keep": options.keep,
                "blocks": len(tower.blocks),
                "tokens": [plain.shape[1], left],
                "images_a_cpu_second": [
                    round(options.batch / statistics.median(side), 3)
                    for side in zip(*turns, strict=True)
                ],
                "times_as_many": round(
                    statistics.median(whole / merged for whole, merged in turns), 3
                ),
                "wanted": WANTED,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
