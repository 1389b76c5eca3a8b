"""Next-token loss without the logits of the whole batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vita_train.recipe.special_ids import IGNORE_INDEX

#: Logits that exist at a time: 512 positions of a vocabulary of 152,064.
_LOGITS = 78_000_000
_MOST_POSITIONS = 2048


class TokenLoss(NamedTuple):
    """Sums over supervised positions; divide by their number, summed over all ranks."""

    loss_sum: Tensor
    """Scalar float32, differentiable."""
    supervised: int
    """Positions that have a label."""
    correct: Tensor
    """Scalar long: positions whose most likely token is the label."""


def positions_at_a_time(vocabulary: int) -> int:
    """Return how many positions are projected at a time: more take memory and save no time."""
    return max(1, min(_MOST_POSITIONS, _LOGITS // vocabulary))


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int = 0
) -> TokenLoss:
    """Return the summed cross-entropy of next tokens over supervised positions.

    Only supervised positions are projected to the vocabulary, ``chunk`` at a time, and each chunk's
    logits are computed again in backward instead of being kept. The label of a document's first
    position must be -100, so that no document is predicted from the one before it.

    Args:
        hidden: (B, L, D) last hidden states.
        weight: (V, D) output matrix.
        labels: (B, L), aligned with the input; position i is predicted from i - 1. -100 is not
            supervised.
        chunk: most positions whose logits exist at a time; 0 goes by the vocabulary.
    """
    chunk = chunk or positions_at_a_time(len(weight))
    targets = labels[:, 1:]
    supervised = targets != IGNORE_INDEX
    states, targets = hidden[:, :-1][supervised], targets[supervised]
    if len(targets) == 0:
        # A rank without a label still takes part in every collective of the backward pass.
        nothing = F.linear(hidden[0, :1], weight).float().sum() * 0
        return TokenLoss(nothing, 0, torch.zeros((), dtype=torch.long, device=hidden.device))
    sums, hits = [], []
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        loss, correct = checkpoint(
            _chunk_loss,
            states[part],
            weight,
            targets[part],
            use_reentrant=False,
            # Nothing is drawn in a chunk, so no generator's state has to be kept and put back
            preserve_rng_state=False,
        )
        sums.append(loss)
        hits.append(correct)
    return TokenLoss(torch.stack(sums).sum(), len(targets), torch.stack(hits).sum())


def _chunk_loss(states: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    # A sum over a hundred thousand exponentials is too much for the 8 bits of bfloat16
    logits = F.linear(states, weight).float()
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return loss, (logits.detach().argmax(-1) == targets).sum()
