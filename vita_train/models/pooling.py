"""Tiles of a video on smaller grids."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from vita_train.errors import DataError


def pool_tiles(features: Tensor, tokens: Tensor) -> Tensor:
    """Pool the features of each tile bilinearly to a grid of as many tokens as it keeps (VITA-1.5, slow-fast).

    Args:
        features: (N, P, D), P a square: the tower's grid, row by row.
        tokens: (N,) squares; a tile that keeps all P is not changed.

    Returns:
        (sum of tokens, D), tile after tile.

    Raises:
        DataError: there are not as many tiles as numbers of tokens.
    """
    if len(features) != len(tokens):
        raise DataError(f"{len(tokens)} tiles are to be pooled but there are {len(features)}", where="batch",
                        remedy="prepare the data again with the model settings of this recipe")
    side = isqrt(features.shape[1])
    owner = torch.arange(len(tokens), device=features.device).repeat_interleave(tokens)
    parts, places = [], []
    for kept in tokens.unique().tolist():
        chosen = tokens == kept
        part = features[chosen]
        if kept != features.shape[1]:
            grid = part.unflatten(1, (side, side)).permute(0, 3, 1, 2)
            small = F.interpolate(grid, size=(isqrt(kept), isqrt(kept)), mode="bilinear", align_corners=False)
            part = small.flatten(2).transpose(1, 2)
        parts.append(part.flatten(0, 1))
        places.append(chosen[owner].nonzero().flatten())
    return torch.cat(parts)[torch.cat(places).argsort()]
