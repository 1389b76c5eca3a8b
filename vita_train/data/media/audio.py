"""Audio to waves, filterbank features and tokens."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr

from vita_train.data.media import MediaError
from vita_train.data.media.door import decoding, find_file
from vita_train.data.media.heard import Channel, check_clipping, decode_audio, one_channel, to_scale
from vita_train.data.media.whole import check_whole
from vita_train.recipe.audio import AdapterSpec
from vita_train.recipe.data import AudioSpec

if TYPE_CHECKING:
    from torch import Tensor

PREEMPHASIS = 0.97
LOW_HZ = 20.0


def load_wave(
    path: Path, rate: int, *, max_seconds: float = math.inf, channel: Channel = "mix"
) -> np.ndarray:
    """Decode an audio file as people hear it, resampled to ``rate``: (samples,) float32.

    Samples lie in [-1, 1], but for what lossy codecs and limiters overshoot. Floating-point files
    whose samples are whole numbers on the scale of 16, 24 or 32 bits are brought to it. See
    `one_channel` for the channels.

    Args:
        path: the file.
        rate: samples a second that are wanted.
        max_seconds: no more than this is decoded; what is longer is refused.
        channel: ``mix``, or ``first`` for the first channel whatever is in it.

    Raises:
        MediaError: missing, empty, unreadable, truncated, too long, silent, clipped, or far outside
            [-1, 1].
    """
    path = find_file(path, "audio")
    with decoding(path, "audio"):
        check_whole(path, "audio")
        samples, native = decode_audio(path, max_seconds)
        if not len(samples):
            raise MediaError("empty audio", f"sound {path} has no samples")
        wave = one_channel(to_scale(samples, path), path, channel)
        check_clipping(wave, path)
        if native != rate:
            wave = soxr.resample(wave, native, rate).astype(np.float32)
        if not np.isfinite(wave).all():
            raise MediaError("unreadable audio", f"{path} holds samples that are not numbers")
        return wave


def frames_of(samples: int, rate: int = 16000) -> int:
    """Return the number of filterbank frames: 25 ms windows, 10 ms apart, none padded."""
    window, shift = rate // 40, rate // 100
    return 1 + (samples - window) // shift if samples >= window else 0


def check_length(path: Path, wave: np.ndarray, spec: AudioSpec, adapter: AdapterSpec) -> None:
    """Refuse a clip that is too short to give a language position, or outside the recipe's limits.

    Raises:
        MediaError: with the duration and the limit.
    """
    seconds = len(wave) / spec.sample_rate
    if seconds < spec.min_seconds or not adapter.tokens_of(frames_of(len(wave), spec.sample_rate)):
        raise MediaError(
            "audio too short", f"{path} lasts {seconds:.3f} s, the least is {spec.min_seconds} s"
        )
    if seconds > spec.max_seconds:
        raise MediaError(
            "audio too long", f"{path} lasts {seconds:.1f} s, the most is {spec.max_seconds} s"
        )


def fbank(wave: np.ndarray | Tensor, rate: int = 16000, bins: int = 80) -> Tensor:
    """Return Kaldi filterbank features (frames, bins), dither 0, of a wave in [-1, 1].

    As Kaldi's compute-fbank: samples x 32768, mean of each window taken out, pre-emphasis 0.97,
    Povey window, power spectrum, triangles on the mel scale from 20 Hz to half the rate, natural
    logarithm.
    """
    import torch

    samples = torch.as_tensor(wave, dtype=torch.float32) * 32768
    window, shift = rate // 40, rate // 100
    if len(samples) < window:
        return torch.zeros(0, bins)
    frames = samples.unfold(0, window, shift)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - PREEMPHASIS * before) * _window(window)
    size = 1 << (window - 1).bit_length()
    power = torch.fft.rfft(frames, n=size).abs().square()
    return (power @ _mel_weights(bins, size, rate)).clamp_min(torch.finfo(torch.float32).eps).log()


@lru_cache(maxsize=4)
def _window(length: int) -> Tensor:
    """Povey window: a Hann window to the power 0.85, which does not reach zero so steeply."""
    import torch

    return torch.hann_window(length, periodic=False, dtype=torch.float64).pow(0.85).float()


@lru_cache(maxsize=4)
def _mel_weights(bins: int, size: int, rate: int) -> Tensor:
    """Triangles on the mel scale: (size // 2 + 1, bins); the bin at half the rate is left out, as
    in Kaldi."""
    import torch

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    low, high = mel(torch.tensor([LOW_HZ, rate / 2], dtype=torch.float64))
    edges = low + (high - low) / (bins + 1) * torch.arange(bins + 2, dtype=torch.float64)
    centres = mel(torch.arange(size // 2, dtype=torch.float64) * rate / size)[:, None]
    rising = (centres - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - centres) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp_min(0)
    return torch.cat([weights, torch.zeros(1, bins, dtype=torch.float64)]).float()
