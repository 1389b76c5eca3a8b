"""How fast stages of the real recipe train on one GPU, beside the public recipe on the same
samples.

    python -m benchmarks.gpu.steps                                 # 1.1 and 2.2, some five minutes
    python -m benchmarks.gpu.steps --only 2.1a 3.2                 # others, without the public side
    python -m benchmarks.gpu.steps --set model.llm.attention=sdpa  # a setting held against the last
    python -m benchmarks.gpu.steps --recipe tiny --device cpu --depths 1 2 --steps 2 --samples 8

Samples have drawn lengths (`benchmarks.balance`: captions in 1.1, tuning in 2.2) and random
contents. *Ours* packs them as the stage does, with its own rule for what is computed again.
*Public* takes a sample a row, eight rows at a time padded to the longest, and computes every block
again, as the public trainer does. Both run the same weights in the same process, in turns.

The language model keeps its width and has the two depths that are named; both are measured, and a
layer's share is carried on to the full depth. MFU counts 6 FLOP a parameter and position where it
trains, 4 where gradients only pass through, 2 where nothing needs any; tables that are looked up do
not count, the head where something is supervised, attention's quadratic part nowhere. Memory is the
allocator's peak, and the planner's estimate stands beside it. Writes ``steps.json`` and
``steps.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.balance import mixes
from benchmarks.drawn import alone_settings, built, drawn_batch
from vita_train.data.loading.batch import Batch, MicroBatch
from vita_train.data.sampling.pack import Budgets, pack
from vita_train.gpus import bfloat16_flops
from vita_train.models.activations import enable_checkpointing, transformer_blocks
from vita_train.planning.devices import plain_device
from vita_train.planning.estimate import estimate_stage
from vita_train.planning.step_trace import policies_of
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import IMAGE_ID
from vita_train.training.checkpointing import activation_room
from vita_train.training.engines.base import Engine
from vita_train.training.flops import flops_per_position
from vita_train.training.objectives.base import Objective

RESULTS = Path(__file__).resolve().parents[1] / "results" / "gpu"
#: Mix of lengths that a stage's samples are drawn from.
MIXES = {"1.1": "captions", "1.2": "captions", "1.3": "tuning", "2.2": "tuning"}
#: Samples that the public scripts put in a micro-batch, and the share of a text that is answered.
PUBLIC_ROWS, ANSWERED = 8, 0.5


@dataclass(frozen=True)
class Side:
    """One way to train the same samples, at one depth."""

    stage: str
    side: str
    layers: int
    seconds: float
    """Median of a pass over all samples, update included."""
    tokens: int
    """Of all samples, padding left out."""
    positions: int
    """What was computed, padding counted."""
    flops: float
    """Of the samples alone, by the rule above."""
    peak: int
    """Bytes; 0 where the device does not count them."""
    planned: int
    """Bytes by the planner, without fragmentation; 0 of the public side."""


def main() -> None:
    """Measure the stages and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="vita-1.5-7b")
    parser.add_argument("--only", nargs="+", default=["1.1", "2.2"], metavar="STAGE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--depths", type=int, nargs=2, default=[2, 4], metavar="LAYERS")
    parser.add_argument("--steps", type=int, default=8, help="passes of each side")
    parser.add_argument("--samples", type=int, default=48, help="samples of a pass")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    # What a pod has to itself: one process, and engines that cut up nothing.
    alone = [*options.set, "launch.nodes=1", "launch.nproc=1"]
    shipped = load_recipe(options.recipe, options.set)
    full = shipped.model.llm.num_layers
    sides: list[Side] = []
    for stage in options.only:
        for layers in options.depths:
            recipe = load_recipe(
                options.recipe,
                [*alone, *alone_settings(shipped, stage), f"model.llm.num_layers={layers}"],
            )
            for side in measure(recipe, stage, device, options.steps, options.samples):
                sides.append(side)
                print(_line(side), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {
        "device": name,
        "torch": torch.__version__,
        "recipe": options.recipe,
        "settings": options.set,
        "layers": full,
        "sides": [asdict(side) for side in sides],
    }
    (options.out / "steps.json").write_text(json.dumps(found, indent=1) + "\n")
    text = table(sides, full, name, options.recipe, options.set)
    (options.out / "steps.md").write_text(text)
    print(text)


def measure(
    recipe: Recipe, stage: str, device: torch.device, steps: int, samples: int
) -> Iterator[Side]:
    """Yield the sides of a stage at a recipe's depth."""
    spec = recipe.stages[stage]
    objective, engine = built(recipe, stage, device)
    each = spec.batch.micro_rows(1)
    ways: dict[str, list[MicroBatch]] = {}
    if stage in MIXES:
        lengths = _drawn(recipe, stage, samples)
        budgets = Budgets(spec.batch.seq_len, spec.batch.max_tiles, spec.batch.max_audio_frames)
        rows = [lengths[row] for row in pack(lengths[:, :3], budgets, 0)]
        ways["ours"] = [
            drawn_batch(recipe, rows[at : at + each], spec.batch.seq_len)
            for at in range(0, len(rows), each)
        ]
        ways["public"] = [
            drawn_batch(recipe, [one[None] for one in lengths[at : at + PUBLIC_ROWS]])
            for at in range(0, len(lengths), PUBLIC_ROWS)
        ]
    else:
        ways["ours"] = [objective.largest_batch(each)]
    modules = nn.ModuleDict(objective.model_modules())
    policies = {
        "ours": policies_of(recipe, stage, each, _free(objective, device)),
        "public": None,
    }
    taken: dict[str, list[float]] = {side: [] for side in ways}
    peaks = dict.fromkeys(ways, 0)
    for turn in range(steps + 1):
        for side, batches in ways.items():
            for block in transformer_blocks(modules):
                block.__dict__.pop("forward", None)  # what the other side computes again
            enable_checkpointing(modules, policies[side])
            seconds, peak = _pass(objective, engine, batches, device)
            peaks[side] = max(peaks[side], peak)
            if turn:  # the first compiles kernels and makes the optimizer's state
                taken[side].append(seconds)
    flops = sum(_flops(objective, batch) for batch in ways["ours"])
    for side, batches in ways.items():
        yield Side(
            stage,
            side,
            recipe.model.llm.num_layers,
            statistics.median(taken[side]),
            int(sum(objective.tokens(batch) for batch in batches)),
            sum(_positions(objective, batch) for batch in batches),
            flops,
            peaks[side],
            _planned(recipe, stage, device) if side == "ours" else 0,
        )


def _drawn(recipe: Recipe, stage: str, samples: int) -> np.ndarray:
    """Return (samples, 4) tokens, tiles, frames and answered tokens, none longer than a row."""
    model, batch = recipe.model, recipe.stages[stage].batch
    found = mixes(
        4 * samples, model.tile_tokens, recipe.data.image, model.vision.tile_size, recipe.seed
    )[MIXES[stage]]
    fits = (found[:, 0] <= batch.seq_len) & (found[:, 1] <= batch.max_tiles)
    text = found[:, 0] - found[:, 1] * model.tile_tokens.merged
    answered = np.maximum(1, (ANSWERED * text).astype(int))
    return np.column_stack([found, answered])[fits & (text > 1)][:samples]


def _pass(
    objective: Objective, engine: Engine, batches: Sequence[MicroBatch], device: torch.device
) -> tuple[float, int]:
    """Train one step over some micro-batches; return its seconds and the peak of memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _wait(device)
    started = time.perf_counter()
    total = sum(objective.weight(batch) for batch in batches)
    for place, batch in enumerate(batches):
        last = place == len(batches) - 1
        engine.forward_backward(batch.to(device), "main", 1 / total, last=last)
    engine.step("main", 1.0)
    _wait(device)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return time.perf_counter() - started, peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _positions(objective: Objective, batch: Any) -> int:
    ids: Tensor | None = getattr(batch, "input_ids", None)
    return ids.numel() if ids is not None else int(objective.tokens(batch))


def _flops(objective: Objective, batch: Any) -> float:
    """Return what the samples of a batch take at least, in FLOP; of other stages than packed ones
    the objective's own estimate."""
    if not isinstance(batch, Batch):
        return (objective.flops_per_token() or 0.0) * objective.tokens(batch)
    modules = objective.model_modules()
    flops, llm = flops_per_position(modules, objective.frozen), cast(Any, modules["llm"])
    tokens, supervised = objective.tokens(batch), objective.weight(batch)
    read = _size(transformer_blocks({"llm": llm})) * tokens + _size([llm.lm_head]) * supervised
    found = flops["llm"] / _size([llm]) * read
    if batch.tiles is not None and "vision" in modules:
        vision: Any = modules["vision"]
        shown = int((batch.input_ids == IMAGE_ID).sum())
        found += flops["vision"] * len(batch.tiles) * vision.spec.positions
        found += flops["projector"] * shown
    return found


def _size(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _free(objective: Objective, device: torch.device) -> float:
    """Return the bytes by which ``checkpoint_activations: auto`` chooses."""
    if device.type != "cuda":
        return float("inf")
    counts = {name: _size([module]) for name, module in objective.model_modules().items()}
    memory = torch.cuda.mem_get_info(device)[1]
    return activation_room(memory, counts, objective.context.spec, 1, 1)


def _planned(recipe: Recipe, stage: str, device: torch.device) -> int:
    on_gpu = device.type == "cuda"
    memory = torch.cuda.mem_get_info(device)[1] if on_gpu else 2**40
    estimate = estimate_stage(recipe, stage, plain_device(memory, gpu=on_gpu))
    return estimate.memory.total - estimate.memory.fragmentation if estimate else 0


def table(sides: Sequence[Side], full: int, device: str, recipe: str, settings: list[str]) -> str:
    """Return the results as markdown.

    Args:
        sides: what was measured.
        full: layers of the whole language model.
        device: its name.
        recipe: its name.
        settings: what was set besides.
    """
    peak = bfloat16_flops(device)
    rows = []
    for stage in dict.fromkeys(side.stage for side in sides):
        whole: dict[str, float] = {}
        for name in dict.fromkeys(side.side for side in sides if side.stage == stage):
            found = [side for side in sides if (side.stage, side.side) == (stage, name)]
            for side in found:
                rows.append(_cells(side, peak))
            few, many = found[0], found[-1]
            if many.layers > few.layers:
                layer = (many.seconds - few.seconds) / (many.layers - few.layers)
                whole[name] = many.seconds + layer * (full - many.layers)
                flops = many.flops + (many.flops - few.flops) / (many.layers - few.layers) * (
                    full - many.layers
                )
                rows.append(
                    _cells(Side(stage, name, full, whole[name], many.tokens, 0, flops, 0, 0), peak)
                )
        if len(whole) > 1:
            ratio = whole["public"] / whole["ours"]
            rows.append([stage, f"ours is {ratio:.2f} times as fast", str(full), *[""] * 6])
    heads = [
        "stage",
        "side",
        "layers",
        "s a pass",
        "tokens/s",
        "padding",
        "MFU",
        "peak GB",
        "planned",
    ]
    lines = [
        f"# Steps on {device}\n",
        f"Written by `python -m benchmarks.gpu.steps`; recipe {recipe}"
        f"{', ' + ', '.join(settings) if settings else ''}. The last depth of a side is carried on "
        "from the two that were measured.\n",
        f"| {' | '.join(heads)} |",
        "| --- " * len(heads) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _cells(side: Side, peak: float | None) -> list[str]:
    error = f" ({side.planned / side.peak - 1:+.0%})" if side.peak and side.planned else ""
    return [
        side.stage,
        side.side,
        str(side.layers),
        f"{side.seconds:.3f}",
        f"{side.tokens / side.seconds:,.0f}",
        f"{1 - side.tokens / side.positions:.0%}" if side.positions else "",
        f"{side.flops / side.seconds / peak:.1%}" if peak else "",
        f"{side.peak / 1e9:.1f}" if side.peak else "",
        f"{side.planned / 1e9:.1f}{error}" if side.planned else "",
    ]


def _line(side: Side) -> str:
    return (
        f"{side.stage} {side.side}, {side.layers} layers: {side.seconds:.3f} s, "
        f"{side.tokens / side.seconds:,.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
