"""What all of the speech decoder's stacks of Llama layers share: masks over padding, rotary
positions, and running them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROPE_THETA = 10000.0


def rotary_embedding(positions: Tensor, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (B, L, dim) of rotary positions (B, L), as Llama's layers take
    them."""
    rates = ROPE_THETA ** (-torch.arange(0, dim, 2, device=positions.device).float() / dim)
    angles = positions[..., None].float() * rates
    # Llama turns channel i with channel i + dim / 2
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def real_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (B, 1, size, size) bool: all see the first ``lengths`` (B,) positions. A row without
    any still has one, since a softmax needs a key."""
    place = torch.arange(size, device=lengths.device)
    real = place < lengths.clamp(min=1)[:, None]
    return real[:, None, None].expand(-1, -1, size, -1)


def run_layers(
    layers: nn.ModuleList,
    hidden: Tensor,
    positions: Tensor,
    mask: Tensor,
    head_size: int,
    past: Any = None,
) -> Tensor:
    """Apply layers to ``hidden`` (B, L, width) with positions (B, L) and mask (B, 1, L, keys), True
    = sees; ``past`` holds the keys before these, and a cache takes them in."""
    rotary = rotary_embedding(positions, head_size, hidden.dtype)
    for layer in layers:
        hidden = layer(
            hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=past
        )
    return hidden
