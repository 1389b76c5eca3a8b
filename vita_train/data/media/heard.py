"""Audio files to samples, and samples as people hear them: scale, channels, and what is no audio at
all."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile

from vita_train.data.media import MediaError
from vita_train.data.media.container import open_container, stated_seconds

Channel = Literal["mix", "first"]

#: Samples a second that a file may state.
RATES = (2000, 768_000)
#: Bytes of decoded samples, all channels together, that a file may ask for.
MAX_BYTES = 400 << 20
#: The most a sample may lie outside [-1, 1]: 12 dB, more than lossy codecs and limiters overshoot.
HEADROOM = 4.0
#: Scales of integers that are written as floating-point numbers by mistake.
_SCALES = (1 << 15, 1 << 23, 1 << 31)
#: Less than this between the least and the greatest sample is silence: three steps of 16 bits,
#: below any recording.
_SILENCE = 1e-4
#: The seconds, and the share, in which something must stand out of silence: a click is no audio.
_CLICK_SECONDS, _CLICK = 0.01, 0.005
#: A mix with less than this share of its loudest channel's power is one whose channels cancel each
#: other.
_CANCELLED = 0.01
#: The share of samples that may stand at the very same extreme; speech that loses more has been cut
#: flat.
MAX_CLIPPED = 0.1
#: A container may tell a little more than there is: an encoder's padding.
_SLACK_SECONDS, _SLACK = 0.1, 0.02
_UNKNOWN_FRAMES = 1 << 62
#: Demuxers whose files `whole` has measured; they make a duration of lengths that say "unknown".
_CHECKED_BY_BYTES = ("aiff", "au", "caf", "w64", "wav")


def decode_audio(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """Decode a file: its samples (n, channels) float32, and how many there are a second.

    Raises:
        MediaError: too long or too large; told before anything is decoded where the header tells
            it.
        Exception: whatever the decoders raise.
    """
    try:
        audio = soundfile.SoundFile(str(path))
    except Exception:  # libsndfile does not know it (AAC, videos) or cannot read it: FFmpeg tells
        return _decode_container(path, max_seconds)
    with audio:
        rate, channels, stated = audio.samplerate, audio.channels, audio.frames
        most = _most_samples(path, rate, channels, max_seconds)
        if most < stated < _UNKNOWN_FRAMES:
            raise _too_long(path, stated / rate, max_seconds)
        samples = audio.read(min(most + 1, stated), dtype="float32", always_2d=True)
    if not len(samples):  # none, or a length that libsndfile does not know for "unknown"
        with suppress(Exception):
            samples, rate = _decode_container(path, max_seconds)
        return samples, rate
    if len(samples) > most:
        raise _too_long(path, len(samples) / rate, max_seconds)
    if stated < _UNKNOWN_FRAMES:
        _check_count(path, len(samples), stated, rate)
    return samples, rate


def to_scale(samples: np.ndarray, path: Path) -> np.ndarray:
    """Return samples (n, channels) whose full scale is 1.

    Whole numbers beyond [-1, 1] are integers of 16, 24 or 32 bits that were written as
    floating-point numbers.

    Raises:
        MediaError: not finite, or far outside [-1, 1] for no reason that can be told.
    """
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise MediaError("unreadable audio", f"{path} holds samples that are not numbers")
    if peak <= 1:
        return samples
    if peak <= _SCALES[-1] and (np.rint(samples) == samples).all():
        return samples / np.float32(next(scale for scale in _SCALES if peak <= scale))
    if peak > HEADROOM:
        raise MediaError(
            "audio outside [-1, 1]", f"{path} has samples of up to {peak:.3g}; full scale is 1"
        )
    return samples


def one_channel(samples: np.ndarray, rate: int, path: Path, channel: Channel) -> np.ndarray:
    """Return one channel (n,) of samples (n, channels), ``rate`` a second.

    The mean of the channels that carry audio: a channel that is silent, stands still or holds but a
    click is left out. Where they cancel each other (one is the other's inverse), the loudest is
    taken alone.

    Raises:
        MediaError: there is no audio in any, or in the first where ``channel`` is ``first``.
    """
    audible = np.flatnonzero(
        [_is_audible(samples[:, one], rate) for one in range(samples.shape[1])]
    )
    if channel == "first" and 0 not in audible and len(audible):
        raise MediaError(
            "silent audio",
            f"the first channel of {path} is silent, channel {audible[0] + 1} is not; "
            "set data.audio.channel to mix",
        )
    if not len(audible):
        raise MediaError(
            "silent audio",
            f"{path} is silent: all samples, or all but a click, are {float(samples[-1, 0]):.3g}",
        )
    if channel == "first" or len(audible) == 1:
        return np.ascontiguousarray(samples[:, 0 if channel == "first" else audible[0]])
    mixed = samples[:, audible].mean(axis=1)
    power = samples[:, audible].var(axis=0)
    loudest = int(power.argmax())
    return (
        np.ascontiguousarray(samples[:, audible[loudest]])
        if mixed.var() < _CANCELLED * power[loudest]
        else mixed
    )


def _is_audible(channel: np.ndarray, rate: int) -> bool:
    if np.ptp(channel) <= _SILENCE:
        return False
    rest = float(np.median(channel[:: max(1, len(channel) // 1001)]))
    standing_out = int(np.count_nonzero(np.abs(channel - rest) > _SILENCE / 2))
    return standing_out > min(_CLICK_SECONDS * rate, _CLICK * len(channel))


def check_clipping(wave: np.ndarray, path: Path) -> None:
    """Refuse a wave (n,) a large part of which stands at full scale.

    Raises:
        MediaError: with the share.
    """
    least, greatest = float(wave.min()), float(wave.max())
    if max(-least, greatest) < 0.98:
        return
    # Integers end one step below 1, and codecs round flat tops. A pure tone has 6 % of its samples
    # there.
    edge = 0.995 * max(-least, greatest)
    share = float((np.abs(wave) >= edge).mean())
    if share > MAX_CLIPPED:
        raise MediaError("clipped audio", f"{share:.0%} of {path} stands at full scale")


def _decode_container(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """Decode through FFmpeg what libsndfile cannot (AAC, audio of videos)."""
    with open_container(path) as container:
        if not container.streams.audio:
            raise ValueError("not an audio file")
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        most = _most_samples(path, stream.rate, stream.codec_context.channels, max_seconds)
        resampler = av.AudioResampler(format="fltp", rate=stream.rate)
        pieces: list[np.ndarray] = []
        count = 0
        for frame in chain(container.decode(stream), (None,)):
            for out in resampler.resample(frame):
                pieces.append(out.to_ndarray().T)
                count += len(pieces[-1])
                if count > most:
                    raise _too_long(path, count / stream.rate, max_seconds)
        stated = stated_seconds(container, stream)
        has_length = container.format.name not in _CHECKED_BY_BYTES
        if not stated and has_length and stream.duration and stream.time_base:
            stated = float(stream.duration * stream.time_base)
        _check_count(path, count, int(stated * stream.rate), stream.rate)
        samples = np.concatenate(pieces) if pieces else np.zeros((0, 1), np.float32)
        return samples.astype(np.float32, copy=False), int(stream.rate)


def _most_samples(path: Path, rate: int, channels: int, max_seconds: float) -> int:
    """Samples a channel that may be decoded, a little above the limit: resampling rounds.

    Raises:
        MediaError: rate or channels are none that audio can have.
    """
    least, greatest = RATES
    if not least <= rate <= greatest:
        raise MediaError(
            "unreadable audio",
            f"{path} states {rate} samples a second; {least} to {greatest} are read",
        )
    if not 1 <= channels <= 64:
        raise MediaError("unreadable audio", f"{path} states {channels} channels")
    room = MAX_BYTES // (4 * channels)
    return (
        min(room, math.ceil(max_seconds * 1.01 * rate) + rate // 10)
        if math.isfinite(max_seconds)
        else room
    )


def _too_long(path: Path, seconds: float, most: float) -> MediaError:
    if seconds > most:
        return MediaError(
            "audio too long", f"{path} lasts {seconds:.1f} s or more, the most is {most:g} s"
        )
    return MediaError("too large", f"{path} holds more than {MAX_BYTES >> 20} MiB of samples")


def _check_count(path: Path, found: int, stated: int, rate: int) -> None:
    if found < stated * (1 - _SLACK) - rate * _SLACK_SECONDS:
        raise MediaError(
            "truncated audio", f"{path} holds {found / rate:.2f} of {stated / rate:.2f} s of audio"
        )
