"""The speech encoder of VITA-1.5 ("whale"): CMVN, convolutional subsampling, pre-norm
transformer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.models.audio.attention import (
    KeyValueCache,
    RelativeAttention,
    chunk_mask,
    random_chunk_mask,
    sinusoids,
)
from vita_train.recipe.audio import AudioEncoderSpec


class Cmvn(nn.Module):
    """Takes the mean out of each filterbank bin and scales it by the inverse standard deviation."""

    mean: Tensor
    istd: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("istd", torch.ones(bins))

    def forward(self, fbank: Tensor) -> Tensor:
        return (fbank.float() - self.mean) * self.istd


class Subsampling(nn.Module):
    """Two 3x3 convolutions of stride 2 over time and frequency: (A, T, bins) to (A,
    ((T-1)//2-1)//2, width)."""

    def __init__(self, bins: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, channels, 3, 2), nn.ReLU(), nn.Conv2d(channels, channels, 3, 2), nn.ReLU()
        )
        self.out = nn.Linear(channels * (((bins - 1) // 2 - 1) // 2), width)

    def forward(self, fbank: Tensor) -> Tensor:
        # (A, T, bins) -> (A, 1, T, bins), and behind it (A, channels, T', bins') -> (A, T',
        # channels * bins')
        maps = self.conv(fbank[:, None])
        return self.out(maps.transpose(1, 2).flatten(2))


class ConvolutionModule(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution (Gulati et al. 2020, figure 2), with
    LayerNorm."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, padding: Tensor) -> Tensor:
        # Hidden behind the gate, whose bias makes something even of zeros
        gated = F.glu(self.gate(frames), dim=-1).masked_fill(padding[..., None], 0)
        # (A, T, width) -> (A, width, T) and back
        mixed = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.out(F.silu(self.norm(mixed))))


class EncoderBlock(nn.Module):
    """Attention, optional convolution, feed-forward; each normed before and added to its input."""

    def __init__(self, spec: AudioEncoderSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width)
        attention_dropout = (
            spec.dropout if spec.attention_dropout is None else spec.attention_dropout
        )
        self.self_attn = RelativeAttention(
            spec.width, spec.num_heads, attention_dropout, spec.relative_shift
        )
        self.conv = None
        if spec.conv_kernel:
            self.norm_conv = nn.LayerNorm(spec.width)
            self.conv = ConvolutionModule(spec.width, spec.conv_kernel, spec.dropout)
        self.norm2 = nn.LayerNorm(spec.width)
        self.feed_forward = nn.ModuleDict(
            {
                "w_1": nn.Linear(spec.width, spec.intermediate_size),
                "w_2": nn.Linear(spec.intermediate_size, spec.width),
            }
        )
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self,
        frames: Tensor,
        positions: Tensor,
        mask: Tensor,
        padding: Tensor,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Args as in RelativeAttention; ``padding`` (A, T) is True beyond a clip's end."""
        frames = frames + self.dropout(self.self_attn(self.norm1(frames), positions, mask, cache))
        if self.conv is not None:
            frames = frames + self.conv(self.norm_conv(frames), padding)
        inner = self.dropout(F.relu(self.feed_forward["w_1"](self.norm2(frames))))
        return frames + self.dropout(self.feed_forward["w_2"](inner))


class AudioEncoder(nn.Module):
    """Filterbank frames to speech frames, 25 a second.

    Outputs depend on real frames only, bit for bit. In eval mode they are deterministic: attention
    is full, or in fixed chunks where the settings name a size. Random chunk masks are drawn while
    training only.

    A clip of more than ``max_positions`` frames after subsampling is cut there into windows of as
    many, which do not see each other and whose positions start at 0; lengths stay what they would
    be without.
    """

    def __init__(self, spec: AudioEncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.global_cmvn = Cmvn(spec.num_mel_bins)
        self.subsampling = Subsampling(
            spec.num_mel_bins, spec.conv_channels or spec.width, spec.width
        )
        self.embed = nn.Sequential(
            nn.Linear(spec.width, spec.width),
            nn.LayerNorm(spec.width),
            nn.Dropout(spec.dropout),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.encoders = nn.ModuleList(EncoderBlock(spec) for _ in range(spec.num_layers))
        self.after_norm = nn.LayerNorm(spec.width)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        return self.encoders

    @torch.no_grad()
    def set_cmvn(self, mean: Tensor, istd: Tensor) -> None:
        """Set the statistics of the training features: mean and inverse standard deviation, each
        (bins,)."""
        self.global_cmvn.mean.copy_(mean)
        self.global_cmvn.istd.copy_(istd)

    def forward(self, fbank: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode clips.

        Args:
            fbank: (A, T, bins) log-mel features, padded; whatever stands in the padding has no
                effect.
            lengths: (A,) real frames, at least 7 each.

        Returns:
            (A, ((T-1)//2-1)//2, width) and the real lengths, by the same formula.
        """
        lengths_out = encoder_length(lengths)
        silent = torch.arange(fbank.shape[1], device=fbank.device) >= lengths[:, None]
        frames = self.subsample(fbank, silent)
        time = frames.shape[1]
        padding = torch.arange(time, device=fbank.device) >= lengths_out[:, None]
        window = min(time, self.spec.max_positions)
        # Windows become clips of their own; what fills up the last one counts as padding
        encoded = self._encode(_windows(frames, window, 0), _windows(padding, window, True))
        return encoded.reshape(len(fbank), -1, self.spec.width)[:, :time], lengths_out

    def subsample(self, fbank: Tensor, silent: Tensor) -> Tensor:
        """Return the blocks' input (A, ((T-1)//2-1)//2, width) for features (A, T, bins),
        ``silent`` (A, T) hidden."""
        # After CMVN, which would turn zeros into minus the mean
        features = self.global_cmvn(fbank).masked_fill(silent[..., None], 0)
        # CMVN gives float32, whatever type the weights have
        frames = self.embed(self.subsampling(features.to(self.subsampling.out.weight.dtype)))
        # Vaswani et al. 2017, section 3.4; positions are not added here but enter the scores of
        # each block
        return self.dropout(frames * math.sqrt(self.spec.width))

    def positions(self, queries: int, first: int, last: int, like: Tensor) -> Tensor:
        """Return position vectors (P, width) of keys ``first`` to ``last`` - 1 for as many of the
        newest as queries.

        With relative shift they are those of the distances between them (see RelativeAttention).
        """
        if self.spec.relative_shift:
            index = torch.arange(last - first - 1, -queries, -1, device=like.device)
        else:
            index = torch.arange(first, last, device=like.device)
        return self.dropout(sinusoids(index, self.spec.width).to(like.dtype))

    def _encode(self, frames: Tensor, padding: Tensor) -> Tensor:
        """Return (W, T, width) for windows (W, T, width), ``padding`` (W, T) True beyond a clip's
        end."""
        time = frames.shape[1]
        positions = self.positions(time, 0, time, frames)
        # (W, T) -> (W, 1, T): padding is hidden as a key, from every query
        mask = ~padding[:, None]
        chunks = self._chunks(time, frames.device)
        if chunks is not None:
            mask = mask & chunks
        for block in self.encoders:
            frames = block(frames, positions, mask, padding)
        return self.after_norm(frames)

    def _chunks(self, time: int, device: torch.device) -> Tensor | None:
        """Return what a frame may see of a window (T, T), or None where that is all of it."""
        if self.training and self.spec.dynamic_chunks:
            return random_chunk_mask(time, device)
        return (
            chunk_mask(time, self.spec.chunk_size, self.spec.left_chunks, device)
            if self.spec.chunk_size
            else None
        )


def _windows(values: Tensor, window: int, filler: float | bool) -> Tensor:
    """Cut (A, T, ...) into windows (A * ceil(T / window), window, ...), the last of a clip filled
    up."""
    missing = -values.shape[1] % window
    if missing:
        rest = values.new_full((values.shape[0], missing, *values.shape[2:]), filler)
        values = torch.cat((values, rest), dim=1)
    return values.reshape(-1, window, *values.shape[2:])


def encoder_length(frames: Tensor) -> Tensor:
    """Return the encoder frames that filterbank frames become: ((T - 1) // 2 - 1) // 2, never below
    0."""
    # floor, not trunc: clips of one or two frames come out below 0 and are clamped
    half = torch.div(frames - 1, 2, rounding_mode="floor")
    return torch.div(half - 1, 2, rounding_mode="floor").clamp(min=0)
