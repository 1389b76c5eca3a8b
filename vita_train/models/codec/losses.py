"""Losses of the codec, with the weights of VITA-1.5's codec (45, 1, 1 mel; 10 quantiser; 5 global
consistency)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from vita_train.models.codec.discriminators import Judgement
from vita_train.models.codec.mel import log_mel, loss_resolution
from vita_train.recipe.model import CodecVariant

MEL_WEIGHTS: Mapping[int, float] = {1024: 45.0, 512: 1.0, 256: 1.0}
QUANTIZER_WEIGHT = 10.0
CONSISTENCY_WEIGHT = 5.0
FEATURE_WEIGHT = 2.0


def discriminator_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """Least squares (Mao et al. 2017): sum over discriminators of mean (1 - D(x))^2 + mean
    D(G(x))^2."""
    terms = [
        (1 - r).square().mean() + m.square().mean()
        for (r, _), (m, _) in zip(real, made, strict=True)
    ]
    return torch.stack(terms).sum()


def adversarial_loss(made: list[Judgement]) -> Tensor:
    """Least squares, the generator's side: sum over discriminators of mean (1 - D(G(x)))^2."""
    return torch.stack([(1 - scores).square().mean() for scores, _ in made]).sum()


def feature_matching_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """Twice the sum over discriminators and layers of mean |real - made| (HiFi-GAN); real is
    detached."""
    terms = [
        F.l1_loss(m, r.detach())
        for (_, of_real), (_, of_made) in zip(real, made, strict=True)
        for r, m in zip(of_real, of_made, strict=True)
    ]
    return FEATURE_WEIGHT * torch.stack(terms).sum()


def mel_loss(
    wave: Tensor,
    made: Tensor,
    sample_rate: int,
    weights: Mapping[int, float] = MEL_WEIGHTS,
    variant: CodecVariant = "revised",
) -> Tensor:
    """Weighted sum over resolutions (transform size to weight) of the L1 distance of log-mel
    spectrograms (B, S)."""
    terms = []
    for n_fft, weight in weights.items():
        settings = loss_resolution(sample_rate, n_fft, variant)
        terms.append(weight * F.l1_loss(log_mel(made, settings), log_mel(wave, settings)))
    return torch.stack(terms).sum()


def consistency_loss(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine of the global vectors (B, D) of two crops of the same utterances; the second is
    detached."""
    return (1 - F.cosine_similarity(first, second.detach(), dim=1)).mean()
