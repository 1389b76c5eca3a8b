"""How fast stages of the real recipe train on a processor, beside the public recipe on the same
samples.

    python -m benchmarks.public_recipe                        # all five stages, some ten minutes
    python -m benchmarks.public_recipe --only 1.1 --turns 16
    python -m benchmarks.public_recipe --set stages.1.2.engine.checkpoint_activations=selective

*Ours* is the recipe vita-1.5-7b with its shipped settings at small sizes: rows packed from a large
pool, its objective, its engine, and what `checkpoint_activations` chooses here.

*Public* is what the published scripts run (a Hugging Face Trainer): a sample a row, eight rows at a
time padded to the longest; every block of the language model and of the tower computed again, by
transformers' own switch; attention by sdpa under a mask of padding; float32 logits of all
positions; a blank tile for each sample without a picture and a blank clip of four seconds for each
without sound, which nothing reads. It trains the same modules at the same rates as ours.

Both begin with the same weights, see the same samples in every turn, and update them, so that their
losses stay the same within rounding; the largest difference is printed. Both compute in float32,
without dropout, on one thread, and are timed in seconds of the process, in turns.

Sizes: the language model has the widths' proportions of Qwen2.5-7B with four layers; the tower and
the speech encoder take as much beside it as InternViT and whale do. Lengths are divided with the
width, pictures' grids with them, so that attention and media keep their shares.

Samples are drawn: captions of 30 to 300 tokens for pictures, half of them photographs from cameras
and half of any shape, cut into 1 to 12 tiles and a thumbnail; instruction data as the published
table has it, 70 % pictures, 23 % videos of 4 to 16 frames, 7 % text alone; in 2.2 half of the
questions are spoken; speech takes 5 to 15 seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.balance import mixes
from benchmarks.drawn import built, drawn_batch
from benchmarks.public_trainer import PublicTrainer
from vita_train.data.loading.batch import Batch
from vita_train.data.loading.collate import LENGTH_MULTIPLE
from vita_train.data.sampling.pack import Budgets, one_each, pack
from vita_train.recipe.audio import frames_of_seconds
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.training.checkpointing import checkpoint_as_asked
from vita_train.training.engines.base import Engine
from vita_train.training.objectives.base import Objective
from vita_train.training.parallel.distributed import World

RECIPE, STAGES = "vita-1.5-7b", ("1.1", "1.2", "1.3", "2.1b", "2.2")
#: What the lengths are divided by. Speech alone would leave some ten positions a sample at 16.
SCALE = {"2.1b": 4}
USUAL_SCALE = 16
#: Rows of ours in a turn.
ROWS = 8
#: Samples that rows are packed from; the product packs 65,536 at a time.
POOL = 4096
#: Tokens of the system prompt with the marks around turns.
PROMPT = 24
SIZES = """
    model.llm.hidden_size=256 model.llm.num_layers=4 model.llm.num_heads=2 model.llm.num_kv_heads=1
    model.llm.intermediate_size=1344 model.llm.vocab_size=1536
    model.vision.hidden_size=64 model.vision.num_layers=4 model.vision.num_heads=2
    model.vision.intermediate_size=256 model.vision.drop_path=0
    model.audio_encoder.width=32 model.audio_encoder.num_layers=12 model.audio_encoder.num_heads=2
    model.audio_encoder.intermediate_size=128 model.audio_encoder.dropout=0
    model.audio_encoder.dynamic_chunks=false model.audio_adapter.hidden_size=64
    launch.nodes=1 launch.nproc=1
"""


@dataclass(frozen=True)
class Turn:
    """The same samples, trained by both sides."""

    ours_s: float
    public_s: float
    """Seconds of the process."""
    tokens: int
    """Of the samples, padding left out."""
    positions: int
    """Of the language model on the public side, padding counted."""
    difference: float
    """Of the two mean losses, as a share."""

    @property
    def ratio(self) -> float:
        """How many times as fast ours was."""
        return self.public_s / self.ours_s


def main() -> None:
    """Measure the stages and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=STAGES, choices=STAGES, metavar="STAGE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--turns", type=int, default=10, help="alternations that count")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of ours in a turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings(
        "ignore", message=".*gradient_checkpointing_enable", category=FutureWarning
    )
    found = {}
    for stage in options.only:
        recipe = small_recipe(stage, options.rows, options.set)
        found[stage] = list(measure(recipe, stage, options.turns, options.seed))
        print(stage, *_cells(found[stage]), sep="  ", flush=True)
    print(table(found))
    described = {
        "torch": torch.__version__,
        "settings": options.set,
        "seed": options.seed,
        "stages": {stage: [asdict(turn) for turn in turns] for stage, turns in found.items()},
    }
    if options.out:
        options.out.write_text(json.dumps(described, indent=1) + "\n")
    else:
        print(json.dumps(described))


def small_recipe(stage: str, rows: int, settings: Sequence[str] = ()) -> Recipe:
    """Return the real recipe at small sizes, with so many micro-batches of one row in a step."""
    scale = SCALE.get(stage, USUAL_SCALE)
    shipped = load_recipe(RECIPE)
    model, batch = shipped.model, shipped.stages[stage].batch
    side = model.vision.tile_size // round(scale**0.5)
    of_stage = f"stages.{stage}"
    return load_recipe(
        RECIPE,
        [
            *SIZES.split(),
            f"model.vision.image_size={side}",
            f"{of_stage}.engine.kind=torch",
            f"{of_stage}.engine.zero=0",
            f"{of_stage}.engine.dtype=float32",
            f"{of_stage}.batch.global_batch_size={rows}",
            f"{of_stage}.batch.grad_accum={rows}",
            f"{of_stage}.batch.seq_len={batch.seq_len // scale}",
            f"{of_stage}.batch.max_audio_frames={batch.max_audio_frames // scale}",
            *settings,
        ],
    )


def draw_samples(recipe: Recipe, stage: str, number: int, seed: int) -> np.ndarray:
    """Return (number, 4) tokens, tiles, frames and answered tokens of samples that fit a row."""
    shipped = load_recipe(RECIPE)
    draw, scale = np.random.default_rng(seed), SCALE.get(stage, USUAL_SCALE)
    model, batch = recipe.model, recipe.stages[stage].batch
    drawn = mixes(
        number,
        shipped.model.tile_tokens,
        shipped.data.image,
        shipped.model.vision.tile_size,
        seed,
    )
    pictures = np.where(draw.random(number) < 0.5, drawn["captions"][:, 1], drawn["web"][:, 1])
    seconds = np.zeros(number)
    if stage in ("1.1", "1.2"):
        tiles, question = pictures, np.full(number, 10)
        answer = np.clip(draw.lognormal(np.log(150), 0.5, number), 30, 300)
    elif stage == "2.1b":
        tiles, question = np.zeros(number, dtype=int), np.full(number, 10)
        seconds = draw.uniform(5, 15, number)
        answer = 3.5 * seconds  # some two and a half words a second
    else:
        kinds = draw.choice(3, number, p=[0.70, 0.23, 0.07])
        tiles = np.select([kinds == 0, kinds == 1], [pictures, draw.integers(4, 17, number)], 0)
        question = draw.integers(10, 61, number)
        answer = np.clip(draw.lognormal(np.log(100), 1.0, number), 5, 800)
        if stage == "2.2":
            spoken = draw.random(number) < 0.5
            question = np.where(spoken, 0, question)
            seconds = np.where(spoken, draw.uniform(5, 15, number), 0)
    frames = np.array([frames_of_seconds(float(length)) // scale for length in seconds])
    heard = np.array([model.audio_adapter.tokens_of(int(length)) for length in frames])
    answer = np.maximum(1, np.rint(answer / scale)).astype(int)
    text = np.maximum(1, np.rint((PROMPT + question) / scale)).astype(int) + answer
    tokens = text + tiles * model.tile_tokens.merged + heard
    found = np.column_stack([tokens, tiles, frames, answer])
    return found[(tokens <= batch.seq_len) & (tiles <= batch.max_tiles)]


def measure(recipe: Recipe, stage: str, turns: int, seed: int = 0) -> Iterator[Turn]:
    """Yield so many turns of a stage; one before them warms both sides up."""
    objective, engine, public = both_sides(recipe, stage, seed)
    for turn, batches in enumerate(draw_steps(recipe, stage, turns + 1, seed)):
        padded = public.micro_batches(batches, seed + turn)
        total = sum(objective.weight(batch) for batch in batches)
        taken, losses = [0.0, 0.0], [0.0, 0.0]
        for side in (0, 1) if turn % 2 else (1, 0):
            started = time.process_time()
            if side:
                losses[side] = public.step(padded, total)
            else:
                losses[side] = our_step(engine, batches, total)
            taken[side] = time.process_time() - started
        if turn:
            yield Turn(
                *taken,
                int(sum(objective.tokens(batch) for batch in batches)),
                sum(batch.ids.numel() for batch in padded),
                abs(losses[0] / losses[1] - 1),
            )


def both_sides(recipe: Recipe, stage: str, seed: int) -> tuple[Objective, Engine, PublicTrainer]:
    """Return ours, as a stage sets it up, and the public side with the same weights."""
    torch.manual_seed(seed)
    device = torch.device("cpu")
    objective, engine = built(recipe, stage, device)
    public = PublicTrainer(recipe, stage, objective, SCALE.get(stage, USUAL_SCALE))
    modules = nn.ModuleDict(objective.model_modules())
    checkpoint_as_asked(modules, recipe.model, recipe.stages[stage], World(0, 1, 0, device))
    return objective, engine, public


def draw_steps(recipe: Recipe, stage: str, steps: int, seed: int) -> Iterator[list[Batch]]:
    """Yield the micro-batches of steps, each one row of a pool that is packed at once."""
    batch = recipe.stages[stage].batch
    lengths = draw_samples(recipe, stage, POOL, seed)
    budgets = Budgets(batch.seq_len, batch.max_tiles, batch.max_audio_frames)
    rows = (pack if batch.packing else one_each)(lengths[:, :3], budgets, seed)
    each = batch.global_batch_size
    for step in range(steps):
        chosen = [lengths[rows[at % len(rows)]] for at in range(step * each, (step + 1) * each)]
        yield [_row(recipe, samples, batch.seq_len) for samples in chosen]


def our_step(engine: Engine, batches: Sequence[Batch], total: float) -> float:
    """Train a step as the training loop does; return the mean loss."""
    loss = our_backward(engine, batches, total)
    engine.step("main", 1.0)
    return loss


def our_backward(engine: Engine, batches: Sequence[Batch], total: float) -> float:
    """Add the gradients of a step; return its mean loss."""
    loss = 0.0
    for place, batch in enumerate(batches):
        last = place == len(batches) - 1
        output = engine.forward_backward(batch, "main", 1 / total, last=last)
        loss += float(output.loss_sum)
    return loss / total


def _row(recipe: Recipe, samples: np.ndarray, most: int) -> Batch:
    """Return one row as long as collation makes it."""
    needed = int(samples[:, 0].sum())
    return drawn_batch(
        recipe, [samples], min(most, -(-needed // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)
    )


def table(found: dict[str, list[Turn]]) -> str:
    """Return the results as markdown."""
    heads = (
        "stage",
        "times as fast",
        "least",
        "most",
        "ours, tokens/s",
        "public, tokens/s",
        "public padding",
        "losses differ by",
    )
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    lines += [f"| {stage} | {' | '.join(_cells(turns))} |" for stage, turns in found.items()]
    return "\n".join(lines)


def _cells(turns: Sequence[Turn]) -> list[str]:
    ratios = [turn.ratio for turn in turns]
    tokens = sum(turn.tokens for turn in turns)
    return [
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f}",
        f"{max(ratios):.2f}",
        f"{tokens / sum(turn.ours_s for turn in turns):,.0f}",
        f"{tokens / sum(turn.public_s for turn in turns):,.0f}",
        f"{1 - tokens / sum(turn.positions for turn in turns):.0%}",
        f"{max(turn.difference for turn in turns):.1e}",
    ]


if __name__ == "__main__":
    main()
