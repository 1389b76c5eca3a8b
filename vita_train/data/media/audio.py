"""Audio to waves, filterbank features and tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr

from vita_train.data.media import MediaError
from vita_train.data.media.door import decoding, find_file
from vita_train.data.media.heard import Channel, check_clipping, decode_audio, one_channel, to_scale
from vita_train.data.media.whole import check_whole
from vita_train.recipe.audio import AdapterSpec
from vita_train.recipe.data import AudioSpec, Resampling

if TYPE_CHECKING:
    from torch import Tensor


def load_wave(
    path: Path,
    rate: int,
    *,
    max_seconds: float = math.inf,
    channel: Channel = "mix",
    resampling: Resampling = "torchaudio",
) -> np.ndarray:
    """Decode an audio file as people hear it, resampled to ``rate``: (samples,) float32; see
    `load_native` and `resampled`.

    Raises:
        MediaError: as `load_native` says.
    """
    wave, native, _ = load_native(path, max_seconds=max_seconds, channel=channel)
    with decoding(path, "audio"):
        wave = resampled(wave, native, rate, resampling)
        if not np.isfinite(wave).all():
            raise MediaError("unreadable audio", f"{path} holds samples that are not numbers")
        return wave


def load_native(
    path: Path, *, max_seconds: float = math.inf, channel: Channel = "mix"
) -> tuple[np.ndarray, int, int]:
    """Decode an audio file as people hear it: (samples,) float32, its own rate, and how many
    channels it has.

    Samples lie in [-1, 1], but for what lossy codecs and limiters overshoot. Floating-point files
    whose samples are whole numbers on the scale of 16, 24 or 32 bits are brought to it. See
    `one_channel` for the channels.

    Args:
        path: the file.
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
        wave = one_channel(to_scale(samples, path), native, path, channel)
        check_clipping(wave, path)
        if not np.isfinite(wave).all():
            raise MediaError("unreadable audio", f"{path} holds samples that are not numbers")
        return wave, native, samples.shape[1]


def frames_of(samples: int, rate: int = 16000) -> int:
    """Return the number of filterbank frames: 25 ms windows, 10 ms apart, none padded."""
    window, shift = rate // 40, rate // 100
    return 1 + (samples - window) // shift if samples >= window else 0


def check_length(path: Path, samples: int, spec: AudioSpec, adapter: AdapterSpec) -> None:
    """Refuse a clip of so many samples at the recipe's rate that is too short to give a language
    position, or outside the recipe's limits.

    Raises:
        MediaError: with the duration and the limit.
    """
    seconds = samples / spec.sample_rate
    if seconds < spec.min_seconds or not adapter.tokens_of(frames_of(samples, spec.sample_rate)):
        raise MediaError(
            "audio too short", f"{path} lasts {seconds:.3f} s, the least is {spec.min_seconds} s"
        )
    if seconds > spec.max_seconds:
        raise MediaError(
            "audio too long", f"{path} lasts {seconds:.1f} s, the most is {spec.max_seconds} s"
        )


def fbank(wave: np.ndarray | Tensor, rate: int = 16000, bins: int = 80) -> Tensor:
    """Return Kaldi filterbank features (frames, bins), dither 0, of a wave in [-1, 1], by
    torchaudio: samples x 32768, windows of 25 ms every 10 ms, energy floor 0, as VITA-1.5's."""
    import torch
    from torchaudio.compliance import kaldi

    samples = torch.as_tensor(wave, dtype=torch.float32)[None] * 32768
    if not frames_of(samples.shape[1], rate):
        return torch.zeros(0, bins)
    features: Tensor = kaldi.fbank(
        samples,
        num_mel_bins=bins,
        frame_length=25.0,
        frame_shift=10.0,
        dither=0.0,
        energy_floor=0.0,
        sample_frequency=float(rate),
    )
    return features


def resampled(
    wave: np.ndarray, native: int, rate: int, by: Resampling = "torchaudio"
) -> np.ndarray:
    """Return a wave (samples,) float32 at another rate.

    Args:
        wave: at ``native`` samples a second.
        native: its rate.
        rate: the one that is wanted.
        by: ``torchaudio``, a windowed sinc with which VITA-1.5's features were made, or ``soxr``.
    """
    if native == rate:
        return wave
    if by == "soxr":
        return np.asarray(soxr.resample(wave, native, rate), dtype=np.float32)
    import torch
    from torchaudio.functional import resample

    return resample(torch.from_numpy(np.ascontiguousarray(wave)), native, rate).numpy()


def resampled_length(samples: int, native: int, rate: int, by: Resampling = "torchaudio") -> int:
    """Return the samples of `resampled` without computing them, where torchaudio makes them."""
    if native == rate:
        return samples
    if by == "soxr":
        return len(resampled(np.zeros(samples, np.float32), native, rate, by))
    return -(-samples * rate // native)
