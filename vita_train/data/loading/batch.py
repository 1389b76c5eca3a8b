"""A packed batch as the model reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """B rows of L tokens, N tiles of side S, A clips of at most T filterbank frames."""

    input_ids: Tensor
    """(B, L) long; IMAGE_ID and AUDIO_ID at every position that media fill, the pad id in
    padding."""
    labels: Tensor
    """(B, L) long; IGNORE_INDEX where not supervised. Aligned with ``input_ids``: the loss
    shifts."""
    position_ids: Tensor
    """(B, L) long; restart at each document."""
    document_ids: Tensor
    """(B, L) long; 0 in padding, 1.. within a row."""
    tiles: Tensor | None
    """(N, 3, S, S) uint8 pixels in reading order of the placeholders."""
    fbank: Tensor | None
    """(A, T, bins) float32 in reading order, zeros behind each clip."""
    fbank_lengths: Tensor | None
    """(A,) long: frames of each clip."""
    sample_ids: list[str]
    """In reading order."""
    modalities: frozenset[str] = frozenset()
    """``image`` and ``audio`` if this micro-batch of any rank has them; the loop fills in those of
    other ranks."""
    tile_tokens: Tensor | None = None
    """(N,) long: tokens each tile is pooled to; None where none is."""
    states: Tensor | None = None
    """(B, L) long: class of each clip at its last position, IGNORE_INDEX elsewhere; none where no
    clip has one."""

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which copies to a GPU overlap with work."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: change(value) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)
