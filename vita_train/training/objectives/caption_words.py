"""Stage 0.vision: a bootstrap model in place of a pretrained tower, trained to say which words of a
caption an image deserves.

Every token of the image votes for every word and the votes are pooled by log-sum-exp, a soft
"somewhere in the image", so that what is seen stays where it is seen. The head is thrown away after
the stage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.data.loading.batch import MicroBatch
from vita_train.data.prepare.ctc_vocab import spoken_form
from vita_train.errors import DataError
from vita_train.models.vision import VisionTower
from vita_train.recipe.visual import most_tiles
from vita_train.training.objectives.augment import sample_generator
from vita_train.training.objectives.base import LossOutput, Objective, Option, StageContext

#: Orders of the colour channels.
_PERMUTATIONS = list(permutations(range(3)))


@dataclass
class CaptionBatch(MicroBatch):
    """B images of N tiles in all."""

    tiles: Tensor
    """(N, 3, S, S) uint8."""
    owner: Tensor
    """(N,) image of each tile."""
    labels: Tensor
    """(B, words): 1 where the caption has the word, -1 where it is not known, else 0."""
    sample_ids: list[str]


@dataclass(frozen=True)
class CaptionCollator:
    """Reads images and marks the words of their captions."""

    word_index: Mapping[str, int]
    colours: Sequence[int]
    """Words that are not asked for where colours are permuted."""
    permuted_share: float

    def __call__(self, samples: Sequence[Any], *, seed: int) -> CaptionBatch:
        """Return the batch of some samples; recolouring follows seed and sample alone."""
        tiles, owner = [], []
        labels = torch.zeros(len(samples), len(self.word_index))
        for row, sample in enumerate(samples):
            pixels = sample.load_pixels()
            known = [
                self.word_index[word]
                for word in spoken_form(sample.text).split()
                if word in self.word_index
            ]
            labels[row, known] = 1
            generator = sample_generator(seed, sample.id)
            share = self.permuted_share if sample.split == "train" else 0.0
            # Drawn for every sample, so that the share does not change what the others draw
            if float(torch.rand((), generator=generator)) < share:
                pixels = recolour(pixels, generator)
                labels[row, list(self.colours)] = -1
            tiles.append(pixels)
            owner += [row] * len(pixels)
        # (N, S, S, 3) -> (N, 3, S, S)
        images = torch.from_numpy(np.ascontiguousarray(np.concatenate(tiles).transpose(0, 3, 1, 2)))
        return CaptionBatch(images, torch.tensor(owner), labels, [sample.id for sample in samples])


class CaptionWordsObjective(Objective):
    """Binary cross-entropy of each word of the captions, over the words whose presence is known."""

    options: ClassVar[dict[str, Option]] = {
        "min_count": 20,  # rarer words are not asked for
        # Share of the images whose colour channels are exchanged and inverted by chance
        "permute_colours": 0.0,
        "colour_words": "",  # words that are not asked for on those
    }

    vision: VisionTower

    def __init__(self, context: StageContext, modules: nn.ModuleDict) -> None:
        super().__init__(context, modules)
        counts = caption_counts(
            captions(context.corpus.index(name, "train").column("turns"))
            for name in context.spec.data
        )
        self.words = sorted(
            word for word, count in counts.items() if count >= int(self.option["min_count"])
        )
        if not self.words:
            raise DataError(
                "the captions hold no word often enough to learn it",
                code="VT-DATA-036",
                where=f"stages.{context.stage}.data",
                remedy="add captions or lower options.min_count",
            )
        word_index = {word: index for index, word in enumerate(self.words)}
        colour_words = str(self.option["colour_words"]).split()
        colours = [word_index[word] for word in colour_words if word in word_index]
        permuted_share = float(self.option["permute_colours"])
        if permuted_share > 0 and not colours:
            raise DataError(
                "colours are permuted but none of colour_words stands in the captions",
                code="VT-DATA-037",
                where=f"stages.{context.stage}.options.colour_words",
                remedy="name the colour words of the captions, with spaces between",
            )
        self.collate = CaptionCollator(word_index, colours, permuted_share)
        spec = context.recipe.model.vision
        self.head = _head(spec.feature_size, len(self.words), spec.num_tokens, context.seed)

    def weight(self, batch: CaptionBatch) -> float:
        """Return the number of known words over all images."""
        return float((batch.labels >= 0).sum())

    def tokens(self, batch: CaptionBatch) -> float:
        """Return the image tokens."""
        return float(len(batch.tiles) * self.context.recipe.model.vision.num_tokens)

    def largest_batch(self, rows: int) -> CaptionBatch:
        """Return images of as many tiles as the recipe cuts one into."""
        recipe = self.context.recipe
        tiles, side = most_tiles(recipe.data.image), recipe.model.vision.tile_size
        return CaptionBatch(
            torch.zeros(rows * tiles, 3, side, side, dtype=torch.uint8),
            torch.arange(rows).repeat_interleave(tiles),
            torch.zeros(rows, len(self.words)),
            [str(row) for row in range(rows)],
        )

    def forward(self, batch: CaptionBatch, phase: str = "main") -> LossOutput:
        """Return the summed loss, with recall and precision at even odds."""
        votes = self.head(self.vision(batch.tiles)).float()
        logits = pool_votes(votes, batch.owner, len(batch.labels))
        known = batch.labels >= 0
        # Unknown ones count as absent here and are left out of the sum below
        loss = F.binary_cross_entropy_with_logits(
            logits, batch.labels.clamp(min=0), reduction="none"
        )
        found, wanted = (logits.detach() > 0) & known, batch.labels > 0
        right = (found & wanted).sum()
        return LossOutput(
            (loss * known).sum(),
            float(known.sum()),
            {"recall": (right, wanted.sum()), "precision": (right, found.sum())},
        )


def recolour(pixels: NDArray[np.uint8], generator: torch.Generator) -> NDArray[np.uint8]:
    """Return pixels (N, S, S, 3) with their channels in another order and each inverted or not,
    drawn by chance.

    These 48 changes carry every corner of the colour cube to every other, so that a shape is met in
    all colours.
    """
    order = _PERMUTATIONS[int(torch.randint(len(_PERMUTATIONS), (), generator=generator))]
    inverted = (torch.rand(3, generator=generator) < 0.5).numpy()
    changed = pixels[..., list(order)]
    return np.where(inverted, 255 - changed, changed)


def pool_votes(votes: Tensor, owner: Tensor, images: int) -> Tensor:
    """Pool votes (N, tokens, words) of tiles over all tokens of each image, by log-sum-exp:
    (images, words)."""
    # log-sum-exp of log-sum-exps is that of all tokens together
    tiles = torch.logsumexp(votes, dim=1)
    if len(tiles) == images:
        return tiles
    return torch.stack([torch.logsumexp(tiles[owner == image], dim=0) for image in range(images)])


def captions(turns: Iterable[list[str]]) -> Iterable[str]:
    """Return the last answer of each conversation."""
    return (conversation[-1] for conversation in turns)


def caption_counts(sources: Iterable[Iterable[str]]) -> Counter[str]:
    """Return in how many captions each word stands."""
    counts: Counter[str] = Counter()
    for source in sources:
        for caption in source:
            # A set: a word counts once a caption, however often it stands there
            counts.update(set(spoken_form(caption).split()))
    return counts


def _head(features: int, words: int, tokens: int, seed: int) -> nn.Linear:
    """Return the voting layer, drawn from its own seed so that it is the same on every rank.

    Its bias makes an image's pooled votes start near even odds whatever the number of tokens.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(features, words)
    # log-sum-exp of n votes of -log n is 0
    nn.init.constant_(head.bias, -math.log(tokens))
    return head
