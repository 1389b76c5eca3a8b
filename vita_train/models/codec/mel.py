"""Log-mel spectrograms of waveforms, as the codec sees and scores them.

Framing and compression follow HiFi-GAN (Kong et al. 2020): reflect padding so that a wave of ``T *
hop`` samples gives exactly T frames, magnitudes, Slaney-normalised triangles, natural logarithm
with a floor of 1e-5.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from vita_train.models.codec.precision import full_precision
from vita_train.recipe.model import CodecVariant

FLOOR = 1e-5
MOST_MELS = 80


@dataclass(frozen=True)
class MelSettings:
    """One resolution of the log-mel spectrogram."""

    sample_rate: int
    n_fft: int
    """Samples of the window and of the transform."""
    hop: int
    """Samples between frames."""
    num_mels: int
    """Triangular filters between 0 Hz and the Nyquist frequency."""


def loss_resolution(sample_rate: int, n_fft: int, variant: CodecVariant = "revised") -> MelSettings:
    """Return the settings a reconstruction is scored with: hop 240 at 1024 and in proportion, at
    most 80 filters.

    Variant ``ticodec`` always has 80. Otherwise short transforms get fewer filters, because 80
    triangles over 129 bins leave many empty.
    """
    mels = MOST_MELS if variant == "ticodec" else min(MOST_MELS, n_fft // 8)
    # 240 / 1024 = 15 / 64, in whole numbers
    return MelSettings(sample_rate, n_fft, n_fft * 15 // 64, mels)


@lru_cache(maxsize=32)
def _filters(settings: MelSettings, device: torch.device) -> Tensor:
    """Return the filter bank, (num_mels, n_fft // 2 + 1). Not a buffer, so that weights never hold
    constants."""
    from torchaudio.functional import melscale_fbanks

    # It is kept, so it must be made for real even while a plan runs the model without contents.
    with _disable_current_modes(), warnings.catch_warnings():
        # Of 80 triangles over 129 bins some are empty, as published.
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        bank: Tensor = melscale_fbanks(
            n_freqs=settings.n_fft // 2 + 1,
            f_min=0.0,
            f_max=settings.sample_rate / 2,
            n_mels=settings.num_mels,
            sample_rate=settings.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
    return bank.T.contiguous().to(device)


def log_mel(wave: Tensor, settings: MelSettings) -> Tensor:
    """Return the log-mel spectrogram of ``wave`` (B, S): (B, num_mels, S // hop), float32.

    ``S`` must exceed half of ``n_fft - hop``, the samples that are mirrored at either end.
    """
    from torchaudio.functional import spectrogram

    with full_precision(wave):
        wave = wave.float()
        # T * hop + margin samples hold exactly T windows
        margin = settings.n_fft - settings.hop
        padded = F.pad(wave[:, None], (margin // 2, margin - margin // 2), mode="reflect")[:, 0]
        window = torch.hann_window(settings.n_fft, device=wave.device)
        spectrum = spectrogram(
            padded,
            pad=0,
            window=window,
            n_fft=settings.n_fft,
            hop_length=settings.hop,
            win_length=settings.n_fft,
            power=None,
            normalized=False,
            center=False,
        )
        # The small term keeps the gradient of the root finite in digital silence.
        magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
        return (_filters(settings, wave.device) @ magnitude).clamp(min=FLOOR).log()
