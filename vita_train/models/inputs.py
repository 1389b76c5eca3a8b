"""What the omni model reads: the fields of a packed batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class OmniBatch(Protocol):
    """The part of a batch that the model reads; ``vita_train.data.loading.batch.Batch`` has it.

    B rows of L tokens; N tiles of side S; A clips of at most T filterbank frames.
    """

    input_ids: Tensor
    """(B, L) long; IMAGE_ID and AUDIO_ID at media positions."""
    position_ids: Tensor
    """(B, L) long; restart at every document."""
    document_ids: Tensor
    """(B, L) long; 0 in padding, 1.. within a row."""
    tiles: Tensor | None
    """(N, 3, S, S) in reading order: uint8 pixels, or floats already normalised."""
    fbank: Tensor | None
    """(A, T, bins) in reading order."""
    fbank_lengths: Tensor | None
    """(A,) frames of each clip that are real."""
    modalities: frozenset[str]
    """``image`` and ``audio`` if any rank has them in this micro-step."""
    tile_tokens: Tensor | None
    """(N,) long: tokens each tile is pooled or merged to; None where none is. Empty where they
    would be and the batch has none."""

    @property
    def sample_ids(self) -> Sequence[str]:
        """Ids for messages, in reading order."""


@dataclass(frozen=True)
class Prompt:
    """One conversation up to where the reply begins."""

    input_ids: Tensor
    """(L,) long; IMAGE_ID and AUDIO_ID at every position that media fill."""
    tiles: Tensor | None = None
    """(N, 3, S, S) in reading order."""
    clips: tuple[Tensor, ...] = ()
    """Filterbank features (T, bins) of each clip, in reading order."""
    name: str = ""
    """Id for messages."""
    position_ids: Tensor | None = None
    """(K,) long, of the first K ids; those behind count on. None counts all ids."""
    tile_tokens: Tensor | None = None
    """(N,) long: tokens each tile is pooled to; None where none is."""


@dataclass
class PromptBatch:
    """Prompts side by side, padded on the left; an ``OmniBatch`` of one document a row."""

    input_ids: Tensor
    position_ids: Tensor
    document_ids: Tensor
    tiles: Tensor | None
    fbank: Tensor | None
    fbank_lengths: Tensor | None
    sample_ids: Sequence[str]
    modalities: frozenset[str] = frozenset()
    tile_tokens: Tensor | None = None


def left_padded(prompts: Sequence[Prompt], device: torch.device) -> PromptBatch:
    """Lay prompts side by side so that all end in the last column."""
    # Padded with 0, a token like others: document 0 hides it, and no medium is looked for there
    ids = pad_sequence(
        [prompt.input_ids for prompt in prompts], batch_first=True, padding_side="left"
    )
    real = pad_sequence(
        [torch.ones_like(prompt.input_ids) for prompt in prompts],
        batch_first=True,
        padding_side="left",
    )
    tiles = [prompt.tiles for prompt in prompts if prompt.tiles is not None]
    tokens = [prompt.tile_tokens for prompt in prompts if prompt.tile_tokens is not None]
    clips = [clip for prompt in prompts for clip in prompt.clips]
    return PromptBatch(
        input_ids=ids.to(device),
        position_ids=pad_sequence(
            [_positions(prompt) for prompt in prompts], batch_first=True, padding_side="left"
        ).to(device),
        document_ids=real.to(device),
        tiles=torch.cat(tiles).to(device) if tiles else None,
        fbank=pad_sequence(clips, batch_first=True).to(device) if clips else None,
        fbank_lengths=torch.tensor([len(clip) for clip in clips], device=device) if clips else None,
        sample_ids=tuple(prompt.name for prompt in prompts),
        tile_tokens=torch.cat(tokens).to(device) if tokens else None,
    )


def _positions(prompt: Prompt) -> Tensor:
    """Return the position of every id of a prompt (L,)."""
    length = len(prompt.input_ids)
    if prompt.position_ids is None:
        return torch.arange(length)
    # Media may share positions, so that the last one is not the number of ids before
    behind = torch.arange(1, length - len(prompt.position_ids) + 1) + prompt.position_ids[-1]
    return torch.cat((prompt.position_ids, behind))
