"""Discriminators of the codec: by period, by scale, and on complex spectrograms.

Sources: HiFi-GAN (Kong et al. 2020) for the first two, EnCodec (Défossez et al. 2022) for the
third. Channels are the published ones for a codec 512 wide and in proportion for others.

Variant ``ticodec`` judges as published (TiCodec, Ren et al. 2023): spectral norm in the first
scale, five spectrograms of whole windows divided by the window's norm, a slope of their own, and
their scores are no features. ``revised`` has three centred spectrograms and weight norm throughout.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import register_parametrization

from vita_train.recipe.model import LONGEST_WINDOW, CodecSpec, CodecVariant

SLOPE = 0.1
#: Slope of the published spectrogram discriminators.
STFT_SLOPE = 0.2
PERIODS = (2, 3, 5, 7, 11)
NUM_SCALES = 3
STFT_SIZES: dict[CodecVariant, tuple[int, ...]] = {
    "revised": (1024, 2048, 512),
    "ticodec": (1024, LONGEST_WINDOW, 512, 256, 128),
}

#: Scores of one discriminator and the activations of its layers, first to last.
Judgement = tuple[Tensor, list[Tensor]]


class _SpectralNorm(nn.Module):
    """Divides a weight by its largest singular value (Miyato et al. 2018), which one power
    iteration a training forward follows.

    Unlike torch's own it keeps its vectors in float32 whatever the weight is cast to.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.register_buffer("left", F.normalize(torch.randn(rows), dim=0, eps=1e-12))
        self.register_buffer("right", F.normalize(torch.randn(columns), dim=0, eps=1e-12))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1).float()
        if self.training:
            with torch.no_grad():
                self.right.copy_(F.normalize(matrix.T @ self.left, dim=0, eps=1e-12))
                self.left.copy_(F.normalize(matrix @ self.right, dim=0, eps=1e-12))
        # Copies, because the next forward moves the vectors before this one's gradients are taken.
        return weight / torch.dot(self.left.clone(), matrix @ self.right.clone()).to(weight.dtype)


def spectral_norm(conv: nn.Module) -> nn.Module:
    """Return ``conv`` with its weight under spectral norm."""
    assert isinstance(conv.weight, Tensor)
    register_parametrization(conv, "weight", _SpectralNorm(conv.weight))
    return conv


class _Stack(nn.Module):
    """Convolutions with leaky ReLU; returns the last one's output and all activations.

    Args:
        convs: with their norms.
        slope: of the leaky ReLU.
        match_scores: count the last one's output among the activations.
    """

    def __init__(
        self, convs: list[nn.Module], slope: float = SLOPE, *, match_scores: bool = True
    ) -> None:
        super().__init__()
        self.convs, self.slope = nn.ModuleList(convs), slope
        self.match_scores = match_scores

    def forward(self, x: Tensor) -> Judgement:
        features: list[Tensor] = []
        for conv in self.convs[:-1]:
            x = F.leaky_relu(conv(x), self.slope)
            features.append(x)
        x = self.convs[-1](x)
        return x.flatten(1), [*features, x] if self.match_scores else features


class PeriodDiscriminator(nn.Module):
    """Looks at every ``period``-th sample: the wave as an image (S / period, period)."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        # 32, 128, 512 and 1024 channels at a width of 32, as in HiFi-GAN
        sizes = [1, width, 4 * width, 16 * width, 32 * width]
        # Kernels are 1 wide: samples of different phase in the period never mix
        convs: list[nn.Module] = [
            nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in pairwise(sizes)
        ]
        convs += [
            nn.Conv2d(sizes[-1], sizes[-1], (5, 1), 1, (2, 0)),
            nn.Conv2d(sizes[-1], 1, (3, 1), 1, (1, 0)),
        ]
        self.stack = _Stack([weight_norm(conv) for conv in convs])

    def forward(self, wave: Tensor) -> Judgement:
        """Judge ``wave`` (B, S)."""
        wave = F.pad(wave[:, None], (0, -wave.shape[1] % self.period), mode="reflect")
        # (B, 1, S) -> (B, 1, S / period, period)
        return self.stack(wave.view(len(wave), 1, -1, self.period))


class ScaleDiscriminator(nn.Module):
    """Looks at the wave averaged over ``2**scale`` samples."""

    def __init__(self, scale: int, width: int, variant: CodecVariant) -> None:
        super().__init__()
        self.scale = scale
        w = width  # 32 in HiFi-GAN
        convs: list[nn.Module] = [
            nn.Conv1d(1, 4 * w, 15, 1, 7),
            nn.Conv1d(4 * w, 4 * w, 41, 2, 20, groups=4),
            nn.Conv1d(4 * w, 8 * w, 41, 2, 20, groups=w // 2),
            nn.Conv1d(8 * w, 16 * w, 41, 4, 20, groups=w // 2),
            nn.Conv1d(16 * w, 32 * w, 41, 4, 20, groups=w // 2),
            nn.Conv1d(32 * w, 32 * w, 41, 1, 20, groups=w // 2),
            nn.Conv1d(32 * w, 32 * w, 5, 1, 2),
            nn.Conv1d(32 * w, 1, 3, 1, 1),
        ]
        norm = spectral_norm if variant == "ticodec" and scale == 0 else weight_norm
        self.stack = _Stack([norm(conv) for conv in convs])

    def forward(self, wave: Tensor) -> Judgement:
        """Judge ``wave`` (B, S)."""
        x = wave[:, None]
        for _ in range(self.scale):
            # HiFi-GAN's pooling: overlapping windows of 4, half as many samples
            x = F.avg_pool1d(x, 4, 2, 2)
        return self.stack(x)


class StftDiscriminator(nn.Module):
    """Looks at the real and imaginary parts of a spectrogram, dilated over time."""

    def __init__(self, n_fft: int, width: int, variant: CodecVariant) -> None:
        super().__init__()
        self.n_fft, self.published = n_fft, variant == "ticodec"
        convs: list[nn.Module] = [nn.Conv2d(2, width, (3, 9), padding=(1, 4))]
        # Time is dilated and keeps its length, frequency is halved
        convs += [
            nn.Conv2d(width, width, (3, 9), (1, 2), (d, 4), dilation=(d, 1)) for d in (1, 2, 4)
        ]
        convs += [nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)]
        if self.published:  # its first convolution has no norm
            rest = [weight_norm(conv) for conv in convs[1:]]
            self.stack = _Stack([convs[0], *rest], STFT_SLOPE, match_scores=False)
        else:
            self.stack = _Stack([weight_norm(conv) for conv in convs])

    def forward(self, wave: Tensor) -> Judgement:
        """Judge ``wave`` (B, S); as published S must be ``n_fft`` or more."""
        window = torch.hann_window(self.n_fft, device=wave.device)
        spectrum = torch.stft(
            # The transform knows no bfloat16
            wave.float(),
            self.n_fft,
            self.n_fft // 4,
            window=window,
            center=not self.published,
            normalized=not self.published,
            return_complex=True,
        )
        if self.published:
            # What torchaudio calls normalized; torch's own divides by the root of n_fft instead
            spectrum = spectrum / window.norm()
        # (B, 2, bins, frames) -> (B, 2, frames, bins): the first axis of the kernels is time
        parts = torch.stack([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
        return self.stack(parts.to(wave.dtype))


class Discriminators(nn.Module):
    """Five period, three scale and three spectrogram discriminators, as published five."""

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__()
        width = max(
            32 * spec.channels // 512 // 2 * 2, 4
        )  # even, so that grouped convolutions divide
        self.judges = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, width) for period in PERIODS),
                *(ScaleDiscriminator(scale, width, spec.variant) for scale in range(NUM_SCALES)),
                *(
                    StftDiscriminator(n_fft, width, spec.variant)
                    for n_fft in STFT_SIZES[spec.variant]
                ),
            ]
        )

    def forward(self, wave: Tensor) -> list[Judgement]:
        """Return each discriminator's scores (B, n) and activations for ``wave`` (B, S)."""
        return [judge(wave) for judge in self.judges]
