"""What every vision tower does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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

    def forward(self, tiles: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            tiles: (N, 3, S, S) of side ``spec.tile_size``; uint8 pixels are normalised here, floats
                are taken as normalised.

        Returns:
            (N, num_tokens, feature_size).
        """
        return self.encode(normalise(tiles, self.spec) if tiles.dtype == torch.uint8 else tiles)


def normalise(tiles: Tensor, spec: TowerSpec) -> Tensor:
    """Return uint8 tiles (N, 3, S, S) as float32 with the tower's mean and deviation taken out."""
    mean = torch.tensor(spec.mean, device=tiles.device).view(3, 1, 1)
    std = torch.tensor(spec.std, device=tiles.device).view(3, 1, 1)
    return (tiles.float() / 255 - mean) / std
