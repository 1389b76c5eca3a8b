"""Sound to waves, filterbank features and language positions."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from vita_train.data.media import MediaError
from vita_train.recipe.audio import AdapterSpec
from vita_train.recipe.data import AudioSpec

PREEMPHASIS = 0.97
LOW_HZ = 20.0


def load_wave(path: Path, rate: int) -> np.ndarray:
    """Decode the first channel of a sound file, resampled to ``rate``: (samples,) float32 in [-1, 1].

    Raises:
        MediaError: missing, empty, unreadable or truncated.
    """
    try:
        if path.stat().st_size == 0:
            raise MediaError("empty file", f"sound {path} is empty")
    except FileNotFoundError:
        raise MediaError("missing file", f"sound {path} does not exist") from None
    except OSError as error:
        raise MediaError("unreadable sound", f"{path}: {error.strerror}") from None
    _check_whole(path)
    try:
        wave, native = _decode(path)
    except (OSError, RuntimeError, ValueError) as error:  # soundfile and PyAV derive from these
        raise MediaError("unreadable sound", f"{path}: {error}") from None
    if not len(wave):
        raise MediaError("empty sound", f"sound {path} has no samples")
    if not np.isfinite(wave).all():
        raise MediaError("unreadable sound", f"{path} holds samples that are not numbers")
    return wave if native == rate else soxr.resample(wave, native, rate).astype(np.float32)


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
        raise MediaError("sound too short", f"{path} lasts {seconds:.3f} s, the least is {spec.min_seconds} s")
    if seconds > spec.max_seconds:
        raise MediaError("sound too long", f"{path} lasts {seconds:.1f} s, the most is {spec.max_seconds} s")


def fbank(wave: np.ndarray | Tensor, rate: int = 16000, bins: int = 80) -> Tensor:
    """Return Kaldi filterbank features (frames, bins), dither 0, of a wave in [-1, 1].

    As Kaldi's compute-fbank: samples x 32768, mean of each window taken out, pre-emphasis 0.97, Povey window,
    power spectrum, triangles on the mel scale from 20 Hz to half the rate, natural logarithm.
    """
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
    return torch.hann_window(length, periodic=False, dtype=torch.float64).pow(0.85).float()


@lru_cache(maxsize=4)
def _mel_weights(bins: int, size: int, rate: int) -> Tensor:
    """Triangles on the mel scale: (size // 2 + 1, bins); the bin at half the rate is left out, as in Kaldi."""
    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    low, high = mel(torch.tensor([LOW_HZ, rate / 2], dtype=torch.float64))
    edges = low + (high - low) / (bins + 1) * torch.arange(bins + 2, dtype=torch.float64)
    centres = mel(torch.arange(size // 2, dtype=torch.float64) * rate / size)[:, None]
    rising = (centres - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - centres) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp_min(0)
    return torch.cat([weights, torch.zeros(1, bins, dtype=torch.float64)]).float()


def _decode(path: Path) -> tuple[np.ndarray, int]:
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        return np.ascontiguousarray(samples[:, 0]), int(rate)
    except soundfile.LibsndfileError:
        return _decode_container(path)


def _decode_container(path: Path) -> tuple[np.ndarray, int]:
    """Decode what libsndfile cannot (AAC, video files) through FFmpeg."""
    with av.open(str(path), mode="r") as container:
        if not container.streams.audio:
            raise ValueError("not a sound file")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", rate=stream.rate)
        pieces = [out.to_ndarray()[0] for frame in container.decode(stream) for out in resampler.resample(frame)]
        pieces += [out.to_ndarray()[0] for out in resampler.resample(None)]
        return np.concatenate(pieces or [np.zeros(0)]).astype(np.float32), int(stream.rate)


def _check_whole(path: Path) -> None:
    """Refuse a WAV whose data ends before the length its header tells; libsndfile reads it without a word."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        place = 12
        while place + 8 <= size:
            stream.seek(place)
            name, length = struct.unpack("<4sI", stream.read(8))
            if name == b"data":
                streamed = length in (0, 0xFFFFFFFF)  # written by a program that could not seek back
                if not streamed and place + 8 + length > size:
                    raise MediaError("truncated sound", f"{path} holds {size - place - 8} of {length} bytes of sound")
                return
            place += 8 + length + length % 2
    raise MediaError("truncated sound", f"{path} ends before its samples")
