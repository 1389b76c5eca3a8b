"""Rotary positions of the speech decoder's layers."""

from __future__ import annotations

import torch
from torch import Tensor

ROPE_THETA = 10000.0


def rotary_embedding(positions: Tensor, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (B, L, dim) of rotary positions (B, L), as Llama's layers take
    them."""
    rates = ROPE_THETA ** (-torch.arange(0, dim, 2, device=positions.device).float() / dim)
    angles = positions[..., None].float() * rates
    # Llama turns channel i with channel i + dim / 2
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)
