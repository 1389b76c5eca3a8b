"""Rows of samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vita_train.data.index.sample import Sample
from vita_train.data.loading.batch import Batch
from vita_train.recipe.special_ids import IGNORE_INDEX

LENGTH_MULTIPLE = 32
"""Rows are padded to a multiple of this, so that few different shapes occur."""


def collate_rows(rows: Sequence[Sequence[Sample]], *, pad_id: int, seq_len: int) -> Batch:
    """Lay each row's samples one behind the other, load their media, and pad.

    Rows are as long as the longest needs, rounded up to ``LENGTH_MULTIPLE`` but at most
    ``seq_len``.

    Raises:
        DataError: a media file cannot be read any more, or has changed since the data was prepared.
    """
    longest = max(sum(sample.tokens for sample in row) for row in rows)
    # seq_len need not be a multiple itself, and bounds the rounding, never a row
    length = max(longest, min(seq_len, -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE))
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    labels = np.full((len(rows), length), IGNORE_INDEX, dtype=np.int64)
    positions = np.zeros((len(rows), length), dtype=np.int64)
    documents = np.zeros((len(rows), length), dtype=np.int64)
    states = np.full((len(rows), length), IGNORE_INDEX, dtype=np.int64)
    for place, row in enumerate(rows):
        start = 0
        # From 1: document 0 is padding
        for number, sample in enumerate(row, 1):
            stop = start + sample.tokens
            ids[place, start:stop], labels[place, start:stop] = sample.expanded()
            positions[place, start:stop] = sample.position_ids()
            documents[place, start:stop] = number
            states[place, start:stop] = sample.expanded_states()
            start = stop
    samples = [sample for row in rows for sample in row]
    tiles, fbank, lengths = load_media(samples)
    kinds = [name for name, value in (("image", tiles), ("audio", fbank)) if value is not None]
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(labels),
        torch.from_numpy(positions),
        torch.from_numpy(documents),
        tiles,
        fbank,
        lengths,
        [sample.id for sample in samples],
        frozenset(kinds),
        _tile_tokens(samples),
        torch.from_numpy(states) if any(sample.states for sample in samples) else None,
    )


def load_media(samples: Sequence[Sample]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the media of samples in reading order: tiles (N, 3, S, S) uint8, fbank (A, T, bins),
    lengths (A,).

    Tiles lie in memory as they were decoded, channels last: the device puts them in order.
    """
    pixels = [sample.load_pixels() for sample in samples if sample.tiles]
    clips = [sample.load_fbank(clip) for sample in samples for clip in range(len(sample.audios))]
    # (N, S, S, 3) -> (N, 3, S, S), a view
    tiles = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2) if pixels else None
    if not clips:
        return tiles, None, None
    return tiles, pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])


def _tile_tokens(samples: Sequence[Sample]) -> Tensor | None:
    counts = [tokens for sample in samples if (tokens := sample.tile_tokens()) is not None]
    tokens = [count for of_sample in counts for count in of_sample]
    # By counts, not tokens: samples whose tiles would be pooled, but have none, give an empty
    # tensor
    return torch.tensor(tokens, dtype=torch.long) if counts else None
