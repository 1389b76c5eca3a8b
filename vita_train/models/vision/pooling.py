"""Tiles of a video on smaller grids."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from vita_train.errors import DataError


def pool_tiles(features: Tensor, tokens: Tensor) -> Tensor:
    """Pool the features of each tile bilinearly to a grid of as many tokens as it keeps (VITA-1.5,
    slow-fast).

    Args:
        features: (N, P, D), P a square: the tower's grid, row by row.
        tokens: (N,) squares; a tile that keeps all P is not changed.

    Returns:
        (sum of tokens, D), tile after tile.

    Raises:
        DataError: there are not as many tiles as numbers of tokens.
    """
    if len(features) != len(tokens):
        raise DataError(
            f"{len(tokens)} tiles are to be pooled but there are {len(features)}",
            code="VT-DATA-035",
            where="batch",
            remedy="prepare the data again with the model settings of this recipe",
        )
    side = isqrt(features.shape[1])
    # The tile that each position belongs to
    owner = torch.arange(len(tokens), device=features.device).repeat_interleave(tokens)
    parts, places = [], []
    for kept in tokens.unique().tolist():
        chosen = tokens == kept
        part = features[chosen]
        if kept != features.shape[1]:
            # (small², side²) @ (tiles, side², D)
            part = bilinear(side, isqrt(kept), features.device).to(features.dtype) @ part
        parts.append(part.flatten(0, 1))
        places.append(chosen[owner].nonzero().flatten())
    # Back into the order of tiles
    return torch.cat(parts)[torch.cat(places).argsort()]


def bilinear(side: int, small: int, device: torch.device) -> Tensor:
    """Return the matrix (small², side²) of torch's bilinear interpolation from one square grid to a
    smaller one.

    As a product with this matrix pooling has the same gradient every time; torch's own has not, on
    GPUs.
    """
    points = torch.eye(side**2, device=device).view(side**2, 1, side, side)
    return (
        F.interpolate(points, size=(small, small), mode="bilinear", align_corners=False)
        .flatten(1)
        .T
    )
