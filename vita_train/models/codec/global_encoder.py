"""Global tokens: what stays the same over an utterance (the voice), as a few codes beside the codes
in time.

Source: TiCodec (Ren et al. 2023): three convolutions, mean over time, a projection, group vector
quantisation.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.models.codec.quantizer import build_quantizer
from vita_train.recipe.model import CodecSpec


class GlobalOutput(NamedTuple):
    """The voice of a batch of waves."""

    quantized: Tensor
    """(B, global_dim)."""
    vector: Tensor
    """(B, global_dim), before quantisation."""
    tokens: Tensor
    """(B, num_global_tokens) long."""
    loss: Tensor
    """Scalar, mean over the groups."""


class VoiceBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the voices of a micro-batch, computed in float32 at least, as its
    statistics are; a single voice, which has no variance, takes the running statistics and leaves
    them alone."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise voices (B, global_dim)."""
        learning = self.training and len(input) > 1
        if learning and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        wide = torch.promote_types(input.dtype, torch.float32)
        normed = F.batch_norm(
            input.to(wide),
            self.running_mean,
            self.running_var,
            self.weight.to(wide),
            self.bias.to(wide),
            learning,
            cast(float, self.momentum),
            self.eps,
        )
        return normed.to(input.dtype)


class GlobalEncoder(nn.Module):
    """Features (B, C, T) to ``num_global_tokens`` codes.

    Args:
        channels: C, width of the features it taps.
        norm: ``batch`` as TiCodec has it (train and eval then differ), or ``layer``.
    """

    def __init__(self, spec: CodecSpec, channels: int, norm: Literal["batch", "layer"]) -> None:
        super().__init__()
        width = max(channels // 2, 1)
        published = spec.variant == "ticodec"
        sizes = [channels, width if published else channels, width, channels]
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, 3, padding=1, bias=not published) for a, b in pairwise(sizes)
        )
        self.project = nn.Linear(channels, spec.global_dim)
        self.norm = (
            VoiceBatchNorm(spec.global_dim) if norm == "batch" else nn.LayerNorm(spec.global_dim)
        )
        self.activation = nn.LeakyReLU(0.1)
        group = spec.global_dim // spec.num_global_tokens
        self.quantizers = nn.ModuleList(
            build_quantizer(spec.quantizer, spec.codebook_size, group)
            for _ in range(spec.num_global_tokens)
        )

    def forward(self, features: Tensor) -> GlobalOutput:
        """Encode and quantise the voice of ``features`` (B, C, T)."""
        vector = self.vector(features)
        # (B, D) -> (B, 1, D / groups) each: to a quantiser the voice is a sequence of one vector
        groups = vector[:, None].chunk(len(self.quantizers), dim=2)
        parts = [quantizer(group) for quantizer, group in zip(self.quantizers, groups, strict=True)]
        return GlobalOutput(
            torch.cat([part.vectors[:, 0] for part in parts], dim=1),
            vector,
            torch.cat([part.codes for part in parts], dim=1),
            torch.stack([part.loss for part in parts]).mean(),
        )

    def start(self, features: Tensor) -> None:
        """Put the codes of moving-average codebooks on vectors of ``features`` (B, C, T)."""
        groups = self.vector(features).chunk(len(self.quantizers), dim=1)
        for quantizer, group in zip(self.quantizers, groups, strict=True):
            quantizer.start(group)  # type: ignore[operator]

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the vectors (B, global_dim) of ``tokens`` (B, num_global_tokens)."""
        parts = zip(self.quantizers, tokens.unbind(1), strict=True)
        found = [quantizer.lookup(token) for quantizer, token in parts]  # type: ignore[operator]
        return torch.cat(found, dim=1)

    def vector(self, features: Tensor) -> Tensor:
        """Return the unquantised voice (B, global_dim) of ``features`` (B, C, T)."""
        for conv in self.convs:
            features = self.activation(conv(features))
        return self.norm(self.activation(self.project(features.mean(2))))
