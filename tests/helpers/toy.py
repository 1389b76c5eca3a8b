"""A small objective with the shape of the real ones: a frozen tower, a projector some batches
reach, a tied head."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.no_source import NO_SOURCE
from vita_train.data.index.corpus import Corpus
from vita_train.data.loading.batch import MicroBatch
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec
from vita_train.training.objectives.base import LossOutput, Objective, StageContext

VOCABULARY = 32
WIDTH = 16


@dataclass
class ToyBatch(MicroBatch):
    """Rows of tokens (B, L) with -1 as padding; images (N, WIDTH) are added to the rows of
    ``owner``."""

    tokens: Tensor
    pictures: Tensor | None
    owner: Tensor | None
    sample_ids: list[str]
    modalities: frozenset[str]


class Block(nn.Module):
    """A residual layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.tanh(self.linear(self.norm(hidden)))


class ToyLanguage(nn.Module):
    """Embedding, two blocks, tied output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.model = nn.ModuleDict(
            {"layers": nn.ModuleList(Block() for _ in range(2)), "norm": nn.LayerNorm(WIDTH)}
        )

    def forward(self, embeds: Tensor) -> Tensor:
        for layer in self.model["layers"]:
            embeds = layer(embeds)
        return self.model["norm"](embeds)


class ToyTower(nn.Sequential):
    """A layer with dropout and statistics, and no transformer blocks."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5), ToyNorm(WIDTH))

    @property
    def blocks(self) -> nn.ModuleList:
        return nn.ModuleList()


class ToyNorm(nn.BatchNorm1d):
    """Its statistics are float32 whatever its parameters are; torch takes no such mixture on the
    CPU."""

    def forward(self, input: Tensor) -> Tensor:
        assert self.num_batches_tracked is not None
        if self.training:
            self.num_batches_tracked += 1
        return F.batch_norm(
            input.float(),
            self.running_mean,
            self.running_var,
            self.weight.float(),
            self.bias.float(),
            self.training,
            self.momentum or 0.1,
            self.eps,
        ).to(input.dtype)


def toy_modules(seed: int = 0) -> nn.ModuleDict:
    """Return modules whose weights depend on the seed alone."""
    torch.manual_seed(seed)
    return nn.ModuleDict(
        {
            "llm": ToyLanguage(),
            "vision": ToyTower(),
            "projector": nn.Linear(WIDTH, WIDTH),
        }
    )


def toy_sample(index: int) -> SimpleNamespace:
    """Sample ``index``: 3 to 8 tokens that follow a rule, every third one with an image."""
    length = 3 + index % 6
    tokens = [(index + 3 * place) % VOCABULARY for place in range(length)]
    picture = torch.full((WIDTH,), index / 10) if index % 3 == 0 else None
    return SimpleNamespace(id=f"toy/train/{index:06d}", tokens=tokens, picture=picture)


def collate(samples: Sequence[Any], *, seed: int) -> ToyBatch:
    """Pad tokens, stack images."""
    longest = max(len(sample.tokens) for sample in samples)
    tokens = torch.tensor(
        [sample.tokens + [-1] * (longest - len(sample.tokens)) for sample in samples]
    )
    owner = [row for row, sample in enumerate(samples) if sample.picture is not None]
    pictures = torch.stack([samples[row].picture for row in owner]) if owner else None
    return ToyBatch(
        tokens,
        pictures,
        torch.tensor(owner) if owner else None,
        [sample.id for sample in samples],
        frozenset({"image"} if owner else ()),
    )


class ToyObjective(Objective):
    """Next-token loss of the toy language model."""

    @classmethod
    def modules_used(cls, spec: StageSpec, corpus: Corpus) -> tuple[str, ...]:
        return ("llm", "vision", "projector")

    def __init__(self, context: StageContext, modules: nn.ModuleDict) -> None:
        super().__init__(context, modules)
        self.collate = collate

    def order(self, split: str = "train") -> ToyOrder:
        return ToyOrder()

    def weight(self, batch: ToyBatch) -> float:
        return float((batch.tokens[:, 1:] >= 0).sum())

    def forward(self, batch: ToyBatch, phase: str = "main") -> LossOutput:
        embeds = self.llm.embed(batch.tokens.clamp(min=0))
        if "image" in batch.modalities:
            real = batch.pictures is not None
            pictures = batch.pictures if real else torch.zeros(1, WIDTH)
            with torch.no_grad():
                features = self.vision(pictures.to(self.vision[0].weight.dtype))
            features = self.projector(features)
            if real:
                embeds = embeds.index_add(
                    0,
                    batch.owner,
                    features[:, None].expand(-1, embeds.shape[1], -1).to(embeds.dtype),
                )
            else:
                embeds = embeds + features.sum() * 0
        hidden = self.llm(embeds)
        logits = F.linear(hidden[:, :-1], self.llm.embed.weight).float()
        loss = F.cross_entropy(
            logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), ignore_index=-1, reduction="sum"
        )
        return LossOutput(loss, self.weight(batch), {"loss": (loss.detach(), self.weight(batch))})


def toy_context(recipe: Recipe, stage: str, rank: int = 0, world: int = 1) -> StageContext:
    """Return a context without a corpus."""
    return StageContext(
        recipe=recipe,
        stage=stage,
        spec=recipe.stages[stage],
        corpus=None,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        dtype=torch.float32,
        rank=rank,
        world=world,
        seed=recipe.seed,
    )


def toy_recipe(**stage: Any) -> Recipe:
    """Return a recipe of one stage; keywords replace parts of it."""
    length = {} if {"steps", "max_steps"} & set(stage) else {"steps": 6}
    spec: dict[str, Any] = {
        "objective": "next_token",
        "data": {"toy": 1.0},
        **length,
        "trainable": {"llm": 1e-2, "projector": 5e-3},
        "batch": {"global_batch_size": 8, "grad_accum": 1},
        "optim": {"max_grad_norm": 0.5, "warmup": 2, "weight_decay": 0.1},
    }
    return Recipe.model_validate(
        {"name": "toy", "data": NO_SOURCE, "stages": {"1.2": spec | stage}}
    )


def global_batch(step: int) -> list[SimpleNamespace]:
    """Return the 8 samples of a step: even places have images, odd places have none."""
    start = int(hashlib.sha256(str(step).encode()).hexdigest()[:4], 16) % 50
    with_pictures = [3 * (start + i) for i in range(4)]
    without = [3 * (start + i) + 1 for i in range(4)]
    return [
        toy_sample(index) for pair in zip(with_pictures, without, strict=True) for index in pair
    ]


class ToyOrder:
    """Global batches of ``global_batch``."""

    steps_per_epoch = 4
    ends: Sequence[int] = ()

    def rows(self, step: int) -> list[SimpleNamespace]:
        return global_batch(step)

    def costs(self, step: int) -> list[float]:
        return [2.0 if sample.picture is not None else 1.0 for sample in self.rows(step)]

    def load(self, row: SimpleNamespace) -> SimpleNamespace:
        return row

    def ids(self, step: int) -> list[str]:
        return [sample.id for sample in global_batch(step)]

    def state(self, step: int) -> dict[str, Any]:
        return {}

    def seek(self, state: Mapping[str, Any]) -> None:
        pass

    def set_ends(self, ends: Sequence[int]) -> None:
        self.ends = ends


def union(batch: ToyBatch, modalities: frozenset[str]) -> ToyBatch:
    """Return the batch with the modalities agreed by all ranks."""
    return replace(batch, modalities=modalities)
