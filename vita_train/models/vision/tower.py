"""What every vision tower does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vita_train.models.vision.merging import Merged, merge_through
from vita_train.recipe.tower import TowerSpec


class VisionTower(nn.Module):
    """Tiles to features for the projector.

    ``spec`` says what goes in and comes out: ``tile_size``, ``num_tokens`` (a square of
    ``grid_size``, row by row) and ``feature_size``. A subclass has ``model``, the network that
    pretrained weights fit, and ``encode``.
    """

    model: Any

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        raise NotImplementedError

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised tiles (N, 3, S, S): (N, num_tokens, feature_size)."""
        raise NotImplementedError

    def embed(self, pixels: Tensor) -> Tensor:
        """Return what goes into the first block for normalised tiles (N, 3, S, S): (N, T, D), class
        token first. Towers that can merge tokens have it."""
        raise NotImplementedError

    def forward(self, tiles: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            tiles: (N, 3, S, S) of side ``spec.tile_size``; uint8 pixels are normalised here, floats
                are taken as normalised.

        Returns:
            (N, num_tokens, feature_size).
        """
        return self.encode(self._pixels(tiles))

    def merged(self, tiles: Tensor, removals: Sequence[int]) -> Merged:
        """Encode tiles and merge tokens on the way.

        Args:
            tiles: as of `forward`.
            removals: tokens that each block merges away (``spec.removals``).

        Returns:
            Features (N, tokens left, feature_size), in no order, and how many patches each token
            stands for.
        """
        assert self.spec.merge is not None
        first = self.spec.class_tokens
        tokens = merge_through(
            list(self.blocks),
            self.embed(self._pixels(tiles)),
            removals,
            class_token=first > 0,
            proportional=self.spec.merge.attention == "key",
        )
        # The class token was protected on the way, so it is still in front
        return Merged(tokens.hidden[:, first:], tokens.sizes[:, first:])

    def _pixels(self, tiles: Tensor) -> Tensor:
        return normalise(tiles, self.spec) if tiles.dtype == torch.uint8 else tiles


def normalise(tiles: Tensor, spec: TowerSpec) -> Tensor:
    """Return uint8 tiles (N, 3, S, S) as float32 with the tower's mean and deviation taken out."""
    mean = torch.tensor(spec.mean, device=tiles.device).view(3, 1, 1)
    std = torch.tensor(spec.std, device=tiles.device).view(3, 1, 1)
    return (tiles.contiguous().float() / 255 - mean) / std
