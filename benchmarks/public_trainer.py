"""The public recipe on a processor: what a Hugging Face Trainer makes of a model and a stage.

What it does besides training is in `benchmarks.public_recipe`, which holds ours against it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from benchmarks.drawn import fill_weights
from vita_train.data.loading.batch import Batch
from vita_train.models.build import build_modules
from vita_train.models.omni import Omni
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import AUDIO_ID, IGNORE_INDEX, IMAGE_ID
from vita_train.training.objectives.base import Objective

#: Samples of a micro-batch.
PUBLIC_ROWS = 8
#: Frames of the clip that stands in for none.
BLANK_FRAMES = 400


@dataclass(frozen=True)
class Sample:
    """One document of a row by itself."""

    ids: Tensor
    labels: Tensor
    tiles: Tensor
    clips: list[Tensor]


def apart(recipe: Recipe, batch: Batch) -> Iterator[Sample]:
    """Yield the documents of a batch of one row with their media."""
    tile, tiles, clips = recipe.model.tile_tokens.merged, 0, 0
    for number in range(1, int(batch.document_ids.max()) + 1):
        chosen = batch.document_ids[0] == number
        ids = batch.input_ids[0, chosen]
        shown, heard = int((ids == IMAGE_ID).sum()) // tile, int((ids == AUDIO_ID).any())
        side = recipe.model.vision.tile_size
        none = torch.zeros(0, 3, side, side, dtype=torch.uint8)
        own = batch.tiles[tiles : tiles + shown] if batch.tiles is not None else none
        spoken = []
        if heard and batch.fbank is not None and batch.fbank_lengths is not None:
            spoken = [batch.fbank[clips, : int(batch.fbank_lengths[clips])]]
        tiles, clips = tiles + shown, clips + heard
        yield Sample(ids, batch.labels[0, chosen], own, spoken)


@dataclass(frozen=True)
class PublicBatch:
    """Samples side by side, padded on the right."""

    ids: Tensor
    """(B, L), and so are labels and ``real``, which is 0 in padding."""
    labels: Tensor
    real: Tensor
    tiles: Tensor
    shown: Tensor
    """(tiles,) bool: false where a tile stands in for none."""
    fbank: Tensor
    frames: Tensor
    """(clips,) of each clip that are real."""
    heard: Tensor
    """(clips,) bool: false where a clip stands in for none."""


class PublicTrainer:
    """The public recipe over its own copy of an objective's weights.

    All five modules are there, as the public model has them; those that ours does not build in the
    stage are frozen and see blanks alone.
    """

    def __init__(self, recipe: Recipe, stage: str, objective: Objective, scale: int) -> None:
        self.recipe, spec = recipe, recipe.stages[stage]
        modules = {name: copy.deepcopy(part) for name, part in objective.model_modules().items()}
        heard_and_seen = ("vision", "projector", "audio_encoder", "audio_adapter")
        others = build_modules(
            recipe.model, [name for name in heard_and_seen if name not in modules], empty=True
        )
        fill_weights(others.requires_grad_(False))
        self.omni = Omni(nn.ModuleDict({**modules, **others})).train()
        llm, tower = self.omni.llm, self.omni.vision.model
        for model in (llm, tower):
            model.config._attn_implementation = "sdpa"
            # Nothing is kept of a frozen tower, with the switch or without
            if model is llm or "vision" in spec.trainable:
                model.gradient_checkpointing_enable({"use_reentrant": True})
        llm.enable_input_require_grads()
        optim = spec.optim
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(modules[name].parameters()), "lr": rate}
                for name, rate in spec.trainable.items()
            ],
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        self.max_norm = optim.max_grad_norm
        self.blank_frames = BLANK_FRAMES // scale

    def micro_batches(self, rows: Sequence[Batch], seed: int) -> list[PublicBatch]:
        """Return the samples of our rows in drawn order, so many at a time."""
        samples = [sample for row in rows for sample in apart(self.recipe, row)]
        order = np.random.default_rng(seed).permutation(len(samples))
        mixed = [samples[at] for at in order]
        return [
            self.collate(mixed[at : at + PUBLIC_ROWS]) for at in range(0, len(mixed), PUBLIC_ROWS)
        ]

    def collate(self, samples: Sequence[Sample]) -> PublicBatch:
        """Pad samples to the longest, with blanks for the media that they lack."""
        model = self.recipe.model
        side, bins = model.vision.tile_size, model.audio_encoder.num_mel_bins
        no_tile = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        no_clip = torch.zeros(self.blank_frames, bins)
        tiles, shown, clips, heard = [], [], [], []
        for sample in samples:
            tiles.append(sample.tiles if len(sample.tiles) else no_tile)
            shown.append(torch.full((len(tiles[-1]),), len(sample.tiles) > 0))
            clips += sample.clips or [no_clip]
            heard += [True] * len(sample.clips) or [False]
        ids = [sample.ids for sample in samples]
        labels = [sample.labels for sample in samples]
        return PublicBatch(
            ids=pad_sequence(ids, batch_first=True),
            labels=pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            real=pad_sequence([torch.ones_like(part) for part in ids], batch_first=True),
            tiles=torch.cat(tiles),
            shown=torch.cat(shown),
            fbank=pad_sequence(clips, batch_first=True),
            frames=torch.tensor([len(clip) for clip in clips]),
            heard=torch.tensor(heard),
        )

    def step(self, batches: Sequence[PublicBatch], total: float) -> float:
        """Train a step; return the mean loss of its ``total`` supervised positions."""
        loss = self.backward(batches, total)
        trained = [value for group in self.optimizer.param_groups for value in group["params"]]
        nn.utils.clip_grad_norm_(trained, self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def backward(self, batches: Sequence[PublicBatch], total: float) -> float:
        """Add the gradients of a step; return its mean loss."""
        loss = 0.0
        for batch in batches:
            logits = self._logits(batch).float()
            part = F.cross_entropy(
                logits[:, :-1].flatten(0, 1),
                batch.labels[:, 1:].flatten(),
                ignore_index=IGNORE_INDEX,
                reduction="sum",
            )
            (part / total).backward()
            loss += float(part.detach())
        return loss / total

    def _logits(self, batch: PublicBatch) -> Tensor:
        """Return the logits (B, L, vocabulary) of all positions."""
        omni, ids = self.omni, batch.ids
        embeds = omni.llm.get_input_embeddings()(ids.clamp(min=0))
        seen = omni.projector(omni.vision(batch.tiles))[batch.shown]
        hidden, counts = omni.audio_adapter(*omni.audio_encoder(batch.fbank, batch.frames))
        real = torch.arange(hidden.shape[1]) < counts[:, None]
        spoken = hidden[real & batch.heard[:, None]]
        embeds = embeds.masked_scatter((ids == IMAGE_ID)[..., None], seen)
        embeds = embeds.masked_scatter((ids == AUDIO_ID)[..., None], spoken)
        logits: Tensor = omni.llm(
            inputs_embeds=embeds, attention_mask=batch.real, use_cache=False
        ).logits
        return logits
