"""Drawing the next id from logits."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(
    logits: Tensor, *, top_k: int, temperature: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return one id per row of ``logits`` (B, V), drawn from the ``top_k`` most likely; 1 is
    greedy."""
    if top_k == 1:
        return logits.argmax(1)
    values, ids = logits.topk(min(top_k, logits.shape[1]), dim=1)
    drawn = torch.multinomial((values / temperature).softmax(1), 1, generator=generator)
    return ids.gather(1, drawn)[:, 0]


def penalise_repetition(logits: Tensor, made: Tensor, penalty: float, window: int = 20) -> Tensor:
    """Make the last ``window`` of the ids already made (B, T) less likely, once each (Keskar et al.
    2019).

    A positive logit is divided by ``penalty``, a negative one multiplied; 1.0 changes nothing.
    """
    if penalty == 1.0:
        return logits
    recent = made[:, -window:]
    seen = logits.gather(1, recent)
    # An id that stands there twice is written the same value twice
    return logits.scatter(1, recent, torch.where(seen > 0, seen / penalty, seen * penalty))
