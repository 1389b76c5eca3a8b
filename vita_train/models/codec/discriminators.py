"""Discriminators of the codec: by period, by scale, and on complex spectrograms.

Sources: HiFi-GAN (Kong et al. 2020) for the first two, EnCodec (Défossez et al. 2022) for the
third. Channels are the published ones for a codec 512 wide and in proportion for others; all use
weight norm, also the first scale.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from vita_train.recipe.model import CodecSpec

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)
NUM_SCALES = 3
STFT_SIZES = (1024, 2048, 512)

#: Scores of one discriminator and the activations of its layers, first to last.
Judgement = tuple[Tensor, list[Tensor]]


class _Stack(nn.Module):
    """Convolutions with leaky ReLU; returns the last one's output and all activations."""

    def __init__(self, convs: list[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(weight_norm(conv) for conv in convs)

    def forward(self, x: Tensor) -> Judgement:
        features: list[Tensor] = []
        for conv in self.convs[:-1]:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        x = self.convs[-1](x)
        return x.flatten(1), [*features, x]


class PeriodDiscriminator(nn.Module):
    """Looks at every ``period``-th sample: the wave as an image (S / period, period)."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        sizes = [1, width, 4 * width, 16 * width, 32 * width]
        convs: list[nn.Module] = [
            nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in pairwise(sizes)
        ]
        convs += [
            nn.Conv2d(sizes[-1], sizes[-1], (5, 1), 1, (2, 0)),
            nn.Conv2d(sizes[-1], 1, (3, 1), 1, (1, 0)),
        ]
        self.stack = _Stack(convs)

    def forward(self, wave: Tensor) -> Judgement:
        """Judge ``wave`` (B, S)."""
        wave = F.pad(wave[:, None], (0, -wave.shape[1] % self.period), mode="reflect")
        return self.stack(wave.view(len(wave), 1, -1, self.period))


class ScaleDiscriminator(nn.Module):
    """Looks at the wave averaged over ``2**scale`` samples."""

    def __init__(self, scale: int, width: int) -> None:
        super().__init__()
        self.scale = scale
        w = width  # 32 in HiFi-GAN
        self.stack = _Stack(
            [
                nn.Conv1d(1, 4 * w, 15, 1, 7),
                nn.Conv1d(4 * w, 4 * w, 41, 2, 20, groups=4),
                nn.Conv1d(4 * w, 8 * w, 41, 2, 20, groups=w // 2),
                nn.Conv1d(8 * w, 16 * w, 41, 4, 20, groups=w // 2),
                nn.Conv1d(16 * w, 32 * w, 41, 4, 20, groups=w // 2),
                nn.Conv1d(32 * w, 32 * w, 41, 1, 20, groups=w // 2),
                nn.Conv1d(32 * w, 32 * w, 5, 1, 2),
                nn.Conv1d(32 * w, 1, 3, 1, 1),
            ]
        )

    def forward(self, wave: Tensor) -> Judgement:
        """Judge ``wave`` (B, S)."""
        x = wave[:, None]
        for _ in range(self.scale):
            x = F.avg_pool1d(x, 4, 2, 2)
        return self.stack(x)


class StftDiscriminator(nn.Module):
    """Looks at the real and imaginary parts of a spectrogram, dilated over time."""

    def __init__(self, n_fft: int, width: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        convs: list[nn.Module] = [nn.Conv2d(2, width, (3, 9), padding=(1, 4))]
        convs += [
            nn.Conv2d(width, width, (3, 9), (1, 2), (d, 4), dilation=(d, 1)) for d in (1, 2, 4)
        ]
        convs += [nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)]
        self.stack = _Stack(convs)

    def forward(self, wave: Tensor) -> Judgement:
        """Judge ``wave`` (B, S)."""
        window = torch.hann_window(self.n_fft, device=wave.device)
        spectrum = torch.stft(
            wave.float(),
            self.n_fft,
            self.n_fft // 4,
            window=window,
            normalized=True,
            return_complex=True,
        )
        parts = torch.stack([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
        return self.stack(parts.to(wave.dtype))


class Discriminators(nn.Module):
    """Five period, three scale and three spectrogram discriminators."""

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__()
        width = max(
            32 * spec.channels // 512 // 2 * 2, 4
        )  # even, so that grouped convolutions divide
        self.judges = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, width) for period in PERIODS),
                *(ScaleDiscriminator(scale, width) for scale in range(NUM_SCALES)),
                *(StftDiscriminator(n_fft, width) for n_fft in STFT_SIZES),
            ]
        )

    def forward(self, wave: Tensor) -> list[Judgement]:
        """Return each discriminator's scores (B, n) and activations for ``wave`` (B, S)."""
        return [judge(wave) for judge in self.judges]
