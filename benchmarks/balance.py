"""How full rows are and how evenly ranks share a step: three mixes, several numbers of ranks.

    python benchmarks/balance.py [--recipe vita-1.5-7b] [--stage 1.2] [--set KEY=VALUE] [--seed 0]

Lengths are drawn, nothing is read: *captions* are one picture with a paragraph, *web* has pictures
of every size with short texts, *tuning* mixes text alone, dialogues, several pictures and videos.
Each is packed with the budgets of the stage; a step has as many micro-batches as the stage. Balance
is the mean cost over that of the slowest rank, rows dealt in turn and by cost. Prints a table and,
with ``--json``, an object.
"""

from __future__ import annotations

import argparse
import json
from functools import cache

import numpy as np

from vita_train.data.media.image import count_tiles
from vita_train.data.sampling.deal import balance, deal
from vita_train.data.sampling.order import WINDOW
from vita_train.data.sampling.pack import Budgets, fill, pack
from vita_train.planning.parameters import meta_modules
from vita_train.recipe.data import ImageSpec
from vita_train.recipe.load import load_recipe
from vita_train.recipe.selection import modules_read
from vita_train.recipe.visual import TileTokens
from vita_train.training.flops import row_costs

RANKS = (8, 64, 1024)
STEPS = 4
#: Tokens of the longest sample.
_LONGEST = 6200
#: Width, height and share of photographs in collections of captions.
_PHOTOGRAPHS = [
    (640, 480, 0.42),
    (640, 427, 0.24),
    (480, 640, 0.14),
    (427, 640, 0.08),
    (500, 375, 0.06),
    (640, 640, 0.03),
    (640, 360, 0.03),
]


def mixes(
    number: int, tile: TileTokens, image: ImageSpec, side: int, seed: int
) -> dict[str, np.ndarray]:
    """Return (n, 3) tokens, tiles and frames of three mixes."""
    draw = np.random.default_rng(seed)

    def texts(median: float, spread: float, longest: int) -> np.ndarray:
        return np.clip(draw.lognormal(np.log(median), spread, number), 8, longest).astype(int)

    def photographs() -> np.ndarray:
        chosen = draw.choice(len(_PHOTOGRAPHS), number, p=[share for *_, share in _PHOTOGRAPHS])
        return np.array([tiles(width, height) for width, height, _ in _PHOTOGRAPHS])[chosen]

    def anything() -> np.ndarray:
        widths = draw.lognormal(np.log(700), 0.5, number)
        heights = widths * draw.lognormal(0, 0.35, number)
        # Sizes to 20 pixels: few different ones occur.
        sizes = zip((widths // 20).tolist(), (heights // 20).tolist(), strict=True)
        return np.array(
            [tiles(20 * int(width) + 1, 20 * int(height) + 1) for width, height in sizes]
        )

    @cache
    def tiles(width: int, height: int) -> int:
        return count_tiles(width, height, image, side)

    def samples(text: np.ndarray, shown: np.ndarray) -> np.ndarray:
        text = np.minimum(text, _LONGEST - shown * tile.merged)
        return np.stack([text + shown * tile.merged, shown, np.zeros_like(shown)], axis=1)

    kinds = draw.choice(4, number, p=[0.45, 0.4, 0.1, 0.05])
    shown = np.select(
        [kinds == 0, kinds == 2, kinds == 3],
        [0, draw.integers(2, 7, number), draw.integers(4, 17, number)],
        photographs(),
    )
    return {
        "captions": samples(texts(170, 0.35, 600), photographs()),
        "web": samples(texts(40, 0.8, 800), anything()),
        "tuning": samples(texts(260, 0.9, 3000), shown),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="vita-1.5-7b")
    parser.add_argument("--stage", default="1.2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.set)
    spec, model = recipe.stages[options.stage], recipe.model
    names = modules_read(recipe, options.stage)
    costs = row_costs(
        model, meta_modules(model, names), [name for name in names if name not in spec.trainable]
    )
    batch, results = spec.batch, {}
    budgets = Budgets(batch.seq_len, batch.max_tiles, batch.max_audio_frames)
    drawn = mixes(
        260_000, model.tile_tokens, recipe.data.image, model.vision.tile_size, options.seed
    )
    for name, lengths in drawn.items():
        rows = [
            begin + row
            for begin in range(0, len(lengths), WINDOW)
            for row in pack(lengths[begin : begin + WINDOW], budgets, begin)
        ]
        by_row, of_sample = np.zeros(len(rows)), costs.of(lengths)
        for place, row in enumerate(rows):
            by_row[place] = of_sample[row].sum()
        found = {"fill": round(fill(rows, lengths, budgets), 3)}
        for ranks in RANKS:
            size = ranks * batch.grad_accum
            steps = [by_row[start : start + size] for start in range(0, STEPS * size, size)]
            steps = [step for step in steps if len(step) == size]
            turn = [_in_turn(size, ranks, batch.grad_accum) for _ in steps]
            by_cost = [deal(step, ranks, batch.grad_accum) for step in steps]
            for word, dealt in (("in turn", turn), ("by cost", by_cost)):
                shares = [balance(step, way) for step, way in zip(steps, dealt, strict=True)]
                found[f"{ranks} ranks, {word}"] = round(float(np.mean(shares)), 3)
        results[name] = found
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for name, found in results.items():
        print(f"{name:<10}" + "  ".join(f"{key} {value:.3f}" for key, value in found.items()))


def _in_turn(count: int, ranks: int, parts: int) -> list[list[np.ndarray]]:
    """Return the rows as they come: row r, r + ranks, ... to rank r."""
    return [
        [np.arange(rank, count, ranks)[part::parts] for rank in range(ranks)]
        for part in range(parts)
    ]


if __name__ == "__main__":
    main()
