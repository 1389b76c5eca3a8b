"""Self-attention with a learned position term (Dai et al. 2019, eq. 5), and the masks of the speech
encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: Score of a masked place before the softmax: the lowest float16. Its weight is set to zero
#: afterwards.
MASKED_SCORE = -65504.0


class KeyValueCache:
    """Keys and values (A, heads, K, head size) of the frames that later ones may still look at."""

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._keys is None else self._keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values behind those that are held, and return all."""
        if self._keys is not None and self._values is not None:
            keys, values = (
                torch.cat((self._keys, keys), dim=2),
                torch.cat((self._values, values), dim=2),
            )
        self._keys, self._values = keys, values
        return keys, values

    def keep(self, frames: int) -> None:
        """Forget all but the newest ``frames``."""
        if self._keys is not None and self._values is not None:
            first = max(0, len(self) - frames)
            self._keys, self._values = self._keys[:, :, first:], self._values[:, :, first:]


class RelativeAttention(nn.Module):
    """Multi-head attention whose scores are ((q + u) k' + (q + v) p') / sqrt(d).

    Without ``shift`` the position term depends on the key's absolute index, as in VITA-1.5; with
    it, on the distance between query and key, as in Transformer-XL.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, shift: bool) -> None:
        super().__init__()
        self.num_heads, self.head_size, self.shift = num_heads, width // num_heads, shift
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, self.head_size))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, self.head_size))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, frames: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Attend.

        Args:
            frames: (A, T, width).
            positions: (P, width) position vectors. P is K, the number of keys: T, with a cache
                those in it as well.
                With ``shift`` it is T + K - 1, from distance K - 1 down to -(T - 1).
            mask: (A, T or 1, K) bool, True where a query may look.
            cache: keys and values of earlier frames, which stand before these; these are put behind
                them.

        Returns:
            (A, T, width).
        """
        queries = self._heads(self.linear_q(frames))
        keys = self._heads(self.linear_k(frames))
        values = self._heads(self.linear_v(frames))
        if cache is not None:
            keys, values = cache.extend(keys, values)
        # (P, width) -> (1, heads, P, head size): positions are the same for all clips
        places = self._heads(self.linear_pos(positions)[None])
        # Terms (a) and (c) of the paper, then (b) and (d): u and v do not depend on the query
        content = (queries + self.pos_bias_u[:, None]) @ keys.transpose(-2, -1)
        position = (queries + self.pos_bias_v[:, None]) @ places.transpose(-2, -1)
        if self.shift:
            position = shift_by_query(position)
        scores = (content + position) / math.sqrt(self.head_size)
        hidden = ~mask[:, None]
        # Masked twice: a query that may look nowhere, as in padding, would else spread its weight
        # evenly over what is hidden.
        weights = scores.masked_fill(hidden, MASKED_SCORE).softmax(-1).masked_fill(hidden, 0.0)
        mixed = self.dropout(weights) @ values
        return self.linear_out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, frames: Tensor) -> Tensor:
        # (A, T, width) -> (A, heads, T, head size)
        return frames.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)


def shift_by_query(scores: Tensor) -> Tensor:
    """Turn scores by distance into scores by key.

    Args:
        scores: (A, H, T, T + K - 1) of T queries, the last of K keys; last axis from distance K - 1
            (key far before the query) to -(T - 1).

    Returns:
        (A, H, T, K) with entry [i, j] taken at the distance of query from key, K - T + i - j (Dai
        et al. 2019, appendix B).
    """
    *batch, time, distances = scores.shape
    # One more column, and the same numbers read with rows one shorter: each row begins one place
    # further on than the row before it.
    padded = torch.nn.functional.pad(scores, (1, 0)).reshape(*batch, distances + 1, time)
    # Of T + K - 1 columns the first K are keys; what is behind them came from the next row
    return padded[..., 1:, :].reshape(*batch, time, distances)[..., : distances + 1 - time]


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return interleaved sines and cosines (P, width) of positions (P,) (Vaswani et al. 2017,
    section 3.5)."""
    rates = torch.exp(
        torch.arange(0, width, 2, device=positions.device) * (-math.log(10000.0) / width)
    )
    angles = positions.float()[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def chunk_mask(time: int, chunk: int, left_chunks: int, device: torch.device) -> Tensor:
    """Return (T, T) bool: a frame sees its own chunk and ``left_chunks`` before it (all if
    negative)."""
    index = torch.arange(time, device=device) // chunk
    behind = index[:, None] - index[None, :]
    mask = behind >= 0
    return mask if left_chunks < 0 else mask & (behind <= left_chunks)


def random_chunk_mask(time: int, device: torch.device) -> Tensor | None:
    """Draw a chunk mask for one training forward from torch's CPU generator; None means full
    attention.

    A length in 1..T-1 is drawn; above half of T attention is full, otherwise chunks have 1 to 25
    frames and a random number of chunks to the left is seen, as published never all that there can
    be. One or two frames leave nothing to draw.
    """
    if time < 3:
        return None
    drawn = int(torch.randint(1, time, ()))
    if drawn > time // 2:
        return None
    # 25 frames are a second. chunk <= T // 2 + 1 <= T - 1, so the draw below has at least one
    # choice
    chunk = drawn % 25 + 1
    left = int(torch.randint(0, (time - 1) // chunk, ()))
    return chunk_mask(time, chunk, left, device)
