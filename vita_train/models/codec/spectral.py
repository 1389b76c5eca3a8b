"""The spectral codec's networks: log-mel in, inverse short-time Fourier transform out (after Vocos,
Siuzdak 2023).

All convolutions run at frame rates, none at the sample rate, so it trains on a processor in
minutes. Frames are four to a code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.errors import RecipeError
from vita_train.models.codec.mel import MelSettings, log_mel
from vita_train.recipe.model import CodecSpec

FRAMES_PER_CODE = 4
NUM_MELS = 80
MAX_LOG_MAGNITUDE = 5.0


def frame_hop(spec: CodecSpec) -> int:
    """Return the samples of one frame: 100 for hop 400.

    Raises:
        RecipeError: the hop is not a multiple of four frames.
    """
    if spec.hop_length % FRAMES_PER_CODE:
        raise RecipeError(
            f"hop_length {spec.hop_length} is not a multiple of {FRAMES_PER_CODE}",
            code="VT-RECIPE-020",
            where="model.codec.hop_length",
            remedy="the spectral codec has four frames to a code",
        )
    return spec.hop_length // FRAMES_PER_CODE


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over 7 frames, then a position-wise network of three times the width,
    residual.

    (B, C, T) -> (B, C, T). Source: ConvNeXt (Liu et al. 2022) in one dimension.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, 3 * channels)
        self.narrow = nn.Linear(3 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus the block's scaled output."""
        y = self.norm(self.depthwise(x).transpose(1, 2))
        y = self.scale * self.narrow(F.gelu(self.widen(y)))
        return x + y.transpose(1, 2)


class SpectralEncoder(nn.Module):
    """Wave (B, S) to vectors (B, T, code_dim) and the features that the voice is read from."""

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__()
        hop = frame_hop(spec)
        # The least power of two that holds four hops: 512 for a hop of 100
        self.mel = MelSettings(spec.sample_rate, 1 << (4 * hop - 1).bit_length(), hop, NUM_MELS)
        self.global_channels = spec.channels
        self.inlet = nn.Conv1d(NUM_MELS, spec.channels, 5, padding=2)
        # With this padding 4 T frames become exactly T codes, and `up` of the decoder makes 4 T of
        # them again
        self.down = nn.Conv1d(
            spec.channels,
            spec.channels,
            2 * FRAMES_PER_CODE,
            FRAMES_PER_CODE,
            padding=FRAMES_PER_CODE // 2,
        )
        self.blocks = nn.Sequential(*(ConvNeXtBlock(spec.channels) for _ in range(spec.num_blocks)))
        self.norm = nn.LayerNorm(spec.channels)
        self.outlet = nn.Linear(spec.channels, spec.code_dim)

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (B, S / hop, code_dim) and voice features (B, channels, T)."""
        # log-mel lies in about (-11.5, 2); bring it near zero mean and unit spread
        mel = (log_mel(wave, self.mel) + 5.0) / 3.0
        voice = self.down(F.gelu(self.inlet(mel.to(self.inlet.weight.dtype))))
        x = self.blocks(voice)
        return self.outlet(self.norm(x.transpose(1, 2))), voice


class SpectralDecoder(nn.Module):
    """Vectors (B, T, code_dim) and a voice (B, global_dim) to a wave (B, T * hop)."""

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__()
        self.hop = frame_hop(spec)
        self.n_fft = FRAMES_PER_CODE * self.hop
        coarse = spec.num_blocks // 2
        self.inlet = nn.Conv1d(spec.code_dim, spec.channels, 7, padding=3)
        self.voice = nn.Linear(spec.global_dim, spec.channels)
        self.coarse = nn.Sequential(*(ConvNeXtBlock(spec.channels) for _ in range(coarse)))
        self.up = nn.ConvTranspose1d(
            spec.channels,
            spec.channels,
            2 * FRAMES_PER_CODE,
            FRAMES_PER_CODE,
            padding=FRAMES_PER_CODE // 2,
        )
        self.fine = nn.Sequential(
            *(ConvNeXtBlock(spec.channels) for _ in range(spec.num_blocks - coarse))
        )
        self.norm = nn.LayerNorm(spec.channels)
        # n_fft / 2 + 1 log magnitudes and as many phases
        self.head = nn.Linear(spec.channels, self.n_fft + 2)

    def forward(self, vectors: Tensor, voice: Tensor) -> Tensor:
        """Return the wave."""
        x = self.inlet(vectors.transpose(1, 2)) + self.voice(voice)[:, :, None]
        x = self.fine(self.up(self.coarse(x)))
        # float32: neither polar nor the inverse transform knows bfloat16
        log_magnitude, phase = self.head(self.norm(x.transpose(1, 2))).float().chunk(2, dim=2)
        # Vocos bounds the magnitude too, at 100; a phase needs no bounds, it goes round
        spectrum = torch.polar(log_magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp(), phase)
        return overlap_add(torch.fft.irfft(spectrum, self.n_fft, dim=2), self.hop)


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Window ``frames`` (B, F, N) and add them ``hop`` apart; return (B, F * hop), divided by the
    window's overlap.

    The margins of half a window before the first and after the last hop are cut off.
    """
    number, size = frames.shape[1:]
    window = torch.hann_window(size, device=frames.device)
    length = (number - 1) * hop + size

    def fold(blocks: Tensor) -> Tensor:
        return F.fold(blocks.transpose(1, 2), (1, length), (1, size), stride=(1, hop))[:, 0, 0]

    wave = fold(frames * window)
    overlap = fold(window.square().expand(1, number, size))
    margin = (size - hop) // 2
    kept = slice(margin, margin + number * hop)
    return wave[:, kept] / overlap[:, kept].clamp(min=1e-3)
