"""What collators make: a packed batch as the model reads it, and what all batches share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor


class MicroBatch:
    """Base of the batches, which are dataclasses: tensors, or lists of tensors, and plain values.

    A kind of batch names its fields; how they get to a device is the same for all.
    """

    sample_ids: list[str]
    """In reading order."""
    modalities: frozenset[str] = frozenset()
    """``image`` and ``audio`` if this micro-batch of any rank has them; the loop fills in those of
    other ranks."""

    def to(self, device: torch.device | str) -> Self:
        """Return the batch with its tensors on ``device``."""
        # Without waiting only where memory is page-locked; elsewhere it is an ordinary copy
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory, from which copies to a GPU overlap with work.

        The loader calls it where training runs on an accelerator.
        """
        return self._each(torch.Tensor.pin_memory)

    def with_modalities(self, modalities: frozenset[str]) -> Self:
        """Return the batch with the modalities that all ranks together have."""
        if modalities == self.modalities:
            return self
        return self._replace(modalities=modalities)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        # Not asdict, which would copy every tensor
        found = {name: vars(self)[name] for name in names}
        return self._replace(
            **{name: _changed(value, change) for name, value in found.items() if _moves(value)}
        )

    def _replace(self, **values: Any) -> Self:
        return replace(self, **values)  # type: ignore[type-var]


class Collate(Protocol):
    """Makes micro-batches in the loader's workers. It holds settings and no weights: each worker
    has a copy of its own."""

    def __call__(self, samples: Sequence[Any], *, seed: int) -> MicroBatch:
        """Return one micro-batch on the CPU.

        Args:
            samples: this rank's share of a global batch: one entry per row, as the order yields
                them.
            seed: differs from step to step; randomness must come from it and the sample's id alone.
        """
        ...


def _moves(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, list) and any(isinstance(item, Tensor) for item in value)
    )


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return [change(item) if isinstance(item, Tensor) else item for item in value]


@dataclass
class Batch(MicroBatch):
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
    modalities: frozenset[str] = frozenset()
    tile_tokens: Tensor | None = None
    """(N,) long: tokens each tile is pooled or merged to; None where none is. Empty where tiles are
    merged and the batch has none."""
    states: Tensor | None = None
    """(B, L) long: class of each clip at its last position, IGNORE_INDEX elsewhere; none where no
    clip has one."""
