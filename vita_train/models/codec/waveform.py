"""The waveform codec's networks: strided convolutions in, a HiFi-GAN-like generator out (TiCodec,
Ren et al. 2023).

Variant ``ticodec`` is the published function. ``revised`` is ours: the voice enters before the
residual blocks of its stage, which then shape it; the encoder's kernels run from small to large;
one slope throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from vita_train.errors import RecipeError
from vita_train.recipe.model import CodecSpec

SLOPE = 0.1
#: Slope of the encoder's last activation as published.
LAST_SLOPE = 0.01
KERNELS = (3, 7, 11)
DILATIONS = (1, 3, 5)


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1, stride: int = 1) -> nn.Module:
    """Weight-normed convolution; S samples become S / stride."""
    padding = (kernel - 1) * dilation // 2 if stride == 1 else (kernel - stride + 1) // 2
    return weight_norm(nn.Conv1d(inputs, outputs, kernel, stride, padding, dilation))


def _transposed(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """Weight-normed transposed convolution; T frames become T * stride."""
    padding = (kernel - stride + 1) // 2
    # Half of an odd difference is rounded up in the padding; one more sample at the end makes up
    # for it
    odd = (kernel - stride) % 2
    return weight_norm(
        nn.ConvTranspose1d(inputs, outputs, kernel, stride, padding, output_padding=odd)
    )


class ResidualBlock(nn.Module):
    """Three pairs of convolutions, the first of each pair dilated (HiFi-GAN's type 1). (B, C, T) ->
    (B, C, T)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(_conv(channels, channels, kernel, d) for d in DILATIONS)
        self.plain = nn.ModuleList(_conv(channels, channels, kernel) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        """Add each pair's output to its input."""
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class ResidualStage(nn.Module):
    """The mean of three residual blocks of different kernels; with ``norm``, GroupNorm on the
    running sum, so that the order of the kernels matters."""

    def __init__(self, channels: int, *, norm: bool, kernels: tuple[int, ...] = KERNELS) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel) for kernel in kernels)
        groups = max(channels // 16, 1)
        self.norms = nn.ModuleList(
            nn.GroupNorm(groups, channels, eps=1e-6) if norm else nn.Identity() for _ in kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        total = torch.zeros_like(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            total = norm(total + block(x))
        return total / len(self.blocks)


class WaveformEncoder(nn.Module):
    """Wave (B, S) to vectors (B, T, code_dim) and the features that the voice is read from.

    Widths double from ``channels / 2**stages`` to ``channels``; the voice taps the output after
    half of the stages.
    """

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__()
        rates, kernels = spec.upsample_rates[::-1], spec.upsample_kernels[::-1]
        widths = [spec.channels >> (len(rates) - i) for i in range(len(rates) + 1)]
        self.tap = len(rates) // 2
        self.global_channels = widths[self.tap]
        self.inlet = _conv(1, widths[0], 7)
        self.down = nn.ModuleList(
            _conv(widths[i], widths[i + 1], kernel, stride=rate)
            for i, (rate, kernel) in enumerate(zip(rates, kernels, strict=True))
        )
        published = spec.variant == "ticodec"
        order = KERNELS[::-1] if published else KERNELS
        self.stages = nn.ModuleList(
            ResidualStage(width, norm=True, kernels=order) for width in widths[1:]
        )
        self.last_slope = LAST_SLOPE if published else SLOPE
        self.outlet = (
            nn.Conv1d(spec.channels, spec.code_dim, 3, padding=1)
            if published
            else _conv(spec.channels, spec.code_dim, 3)
        )

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (B, S / hop, code_dim) and voice features (B, global_channels, frames)."""
        # With a single stage the tap is before it
        x = voice = self.inlet(wave[:, None])
        for number, (down, stage) in enumerate(zip(self.down, self.stages, strict=True), start=1):
            x = stage(down(F.leaky_relu(x, SLOPE)))
            if number == self.tap:
                voice = x
        return self.outlet(F.leaky_relu(x, self.last_slope)).transpose(1, 2), voice


class WaveformDecoder(nn.Module):
    """Vectors (B, T, code_dim) and a voice (B, global_dim) to a wave (B, T * hop).

    Raises:
        RecipeError: no stage is as wide as the voice, which would then be left out without a word.
    """

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__()
        widths = [spec.channels >> i for i in range(len(spec.upsample_rates) + 1)]
        if spec.global_dim not in widths[1:]:
            raise RecipeError(
                f"no generator stage is {spec.global_dim} channels wide, so the voice could not be "
                f"added",
                code="VT-RECIPE-021",
                where="model.codec.global_dim",
                remedy=f"choose one of {', '.join(map(str, widths[1:]))}",
            )
        self.global_stage = widths[1:].index(spec.global_dim)
        self.voice_last = spec.variant == "ticodec"
        self.inlet = _conv(spec.code_dim, spec.channels, 7)
        self.up = nn.ModuleList(
            _transposed(widths[i], widths[i + 1], kernel, rate)
            for i, (rate, kernel) in enumerate(
                zip(spec.upsample_rates, spec.upsample_kernels, strict=True)
            )
        )
        self.stages = nn.ModuleList(ResidualStage(width, norm=False) for width in widths[1:])
        self.outlet = _conv(widths[-1], 1, 7)

    def forward(self, vectors: Tensor, voice: Tensor) -> Tensor:
        """Return the wave, within (-1, 1)."""
        x = self.inlet(vectors.transpose(1, 2))
        for number, (up, stage) in enumerate(zip(self.up, self.stages, strict=True)):
            x = up(F.leaky_relu(x, SLOPE))
            # The voice (B, global_dim) is added to every frame of the one stage that is as wide
            if number != self.global_stage:
                x = stage(x)
            elif self.voice_last:
                x = stage(x) + voice[:, :, None]
            else:
                x = stage(x + voice[:, :, None])
        return torch.tanh(self.outlet(F.leaky_relu(x, SLOPE)))[:, 0]
