"""Measures of the codec that need no recogniser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vita_train.models.codec.mel import log_mel, loss_resolution

RESOLUTIONS = (2048, 1024, 512, 256)


def mel_distance(
    wave: NDArray[np.float32] | Tensor,
    made: NDArray[np.float32] | Tensor,
    sample_rate: int,
    resolutions: Sequence[int] = RESOLUTIONS,
) -> float:
    """Return the L1 distance of natural-log mel spectrograms, averaged over transform sizes; 0 is
    perfect.

    Args:
        wave, made: (S,) samples; the longer one is cut to the other's length.
    """
    pair = [torch.as_tensor(x, dtype=torch.float32).flatten() for x in (wave, made)]
    length = min(len(pair[0]), len(pair[1]))
    # Mirrored padding needs more samples than half a window; short clips are followed by silence.
    first, second = (F.pad(x[:length], (0, max(max(resolutions) - length, 0)))[None] for x in pair)
    distances = []
    for n_fft in resolutions:
        settings = loss_resolution(sample_rate, n_fft)
        distances.append(F.l1_loss(log_mel(second, settings), log_mel(first, settings)).item())
    return float(np.mean(distances))


@dataclass(frozen=True)
class CodebookUse:
    """How a codebook is used over a set of utterances."""

    used: int
    """Different codes that occur."""
    perplexity: float
    """exp of the entropy of the code frequencies: codes in even use that would carry as much."""


def codebook_use(codes: Iterable[Tensor], size: int) -> CodebookUse:
    """Return the use of a codebook of ``size`` by ``codes``, tensors of ids of any shape."""
    counts = torch.zeros(size, dtype=torch.float64)
    for row in codes:
        counts += torch.bincount(row.flatten().cpu(), minlength=size)
    if counts.sum() == 0:
        return CodebookUse(0, 0.0)
    share = counts[counts > 0] / counts.sum()
    return CodebookUse(int((counts > 0).sum()), float(torch.exp(-(share * share.log()).sum())))
