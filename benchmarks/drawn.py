"""What benchmarks of a stage's steps share: the stage by itself in one process, and micro-batches
of drawn lengths with random contents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from vita_train.data.loading.batch import Batch
from vita_train.models.build import build_modules
from vita_train.planning.assumed import CTC_VOCAB_SIZE, assumed_corpus
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import AUDIO_ID, IGNORE_INDEX, IMAGE_ID
from vita_train.training.engines.base import Engine, EngineContext, compute_dtype
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives import objective_class
from vita_train.training.objectives.base import Objective, StageContext
from vita_train.training.parallel.distributed import World


def alone_settings(shipped: Recipe, stage: str) -> list[str]:
    """Return what lets a stage train in one process by itself: with as many rows in a step as make
    the micro-batches of the shipped recipe's ranks, and the plain engine in the same type."""
    batch = shipped.stages[stage].batch
    rows = batch.micro_rows(shipped.launch.ranks) * batch.grad_accum
    return [
        f"stages.{stage}.engine.kind=torch",
        f"stages.{stage}.engine.zero=0",
        f"stages.{stage}.batch.global_batch_size={rows}",
    ]


def built(recipe: Recipe, stage: str, device: torch.device) -> tuple[Objective, Engine]:
    """Return a stage's objective with drawn weights, and the engine that trains it."""
    spec, corpus = recipe.stages[stage], assumed_corpus(recipe, stage)
    kind, dtype = objective_class(spec.objective), compute_dtype(recipe, spec)
    names = kind.modules_used(spec, corpus)
    modules = build_modules(recipe.model, names, ctc_vocab_size=CTC_VOCAB_SIZE, empty=True)
    world = World(0, 1, 0, device)
    context = StageContext(recipe, stage, spec, corpus, device, dtype, 0, 1, recipe.seed)
    objective = kind(context, modules)
    apply_trainable(objective, spec.trainable)
    fill_weights(objective.to(device))
    return objective, build_engine(objective, EngineContext(spec, world, dtype))


@torch.no_grad()
def fill_weights(objective: nn.Module) -> None:
    """Draw weights on the device, where it takes moments: what they are changes no time, but they
    have to be finite."""
    for name, parameter in objective.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def drawn_batch(recipe: Recipe, rows: Sequence[np.ndarray], length: int = 0) -> Batch:
    """Return rows of documents, each its pictures, its clip and then text whose end is answered.

    Args:
        recipe: sizes.
        rows: (documents, 4) tokens, tiles, frames and answered tokens of each row.
        length: of a row; 0 is that of the longest.
    """
    model, draw = recipe.model, torch.Generator().manual_seed(0)
    length = length or max(int(row[:, 0].sum()) for row in rows)
    shape = (len(rows), length)
    ids = torch.randint(1, model.llm.vocab_size, shape, generator=draw)
    labels = torch.full(shape, IGNORE_INDEX)
    documents, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape).long()
    clips = []
    for place, row in enumerate(rows):
        start = 0
        for number, (tokens, tiles, frames, answer) in enumerate(row.tolist(), 1):
            shown, end = tiles * model.tile_tokens.merged, start + tokens
            heard = model.audio_adapter.tokens_of(frames) if frames else 0
            ids[place, start : start + shown] = IMAGE_ID
            ids[place, start + shown : start + shown + heard] = AUDIO_ID
            labels[place, end - answer : end] = ids[place, end - answer : end]
            documents[place, start:end] = number
            positions[place, start:end] = torch.arange(tokens)
            start = end
            if frames:
                clips.append(torch.randn(frames, model.audio_encoder.num_mel_bins, generator=draw))
    side, tiles = model.vision.tile_size, int(sum(row[:, 1].sum() for row in rows))
    pixels = torch.randint(0, 256, (tiles, 3, side, side), dtype=torch.uint8, generator=draw)
    kinds = [name for name, there in (("image", tiles), ("audio", clips)) if there]
    return Batch(
        ids,
        labels,
        positions,
        documents,
        pixels if tiles else None,
        pad_sequence(clips, batch_first=True) if clips else None,
        torch.tensor([len(clip) for clip in clips]) if clips else None,
        [str(number) for number in range(sum(map(len, rows)))],
        frozenset(kinds),
    )
