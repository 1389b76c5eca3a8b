"""Who speaks: voices for training, voices only tested, and the one voice of the assistant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import soxr
from numpy.typing import NDArray

from vita_train.data.sources.synth.espeak import Synthesiser
from vita_train.errors import UserError

SAMPLE_RATE = 16000
_PEAK = 0.6
_SILENCE = 0.01
"""Share of the peak below which the ends of a clip are silence."""
_LEAD, _TAIL = 0.06, 0.1
"""Seconds of silence left before and after."""


@dataclass(frozen=True)
class Voice:
    """A speaker: variant of the synthesiser with its usual speed and pitch."""

    name: str
    variant: str
    rate: int
    """Words a minute."""
    pitch: int
    """0 to 100."""


def _voice(variant: str, rate: int, pitch: int) -> Voice:
    return Voice(variant.lower(), f"en-us+{variant}", rate, pitch)


TRAIN_VOICES: tuple[Voice, ...] = (
    _voice("m1", 170, 45),
    _voice("m3", 165, 50),
    _voice("m4", 180, 40),
    _voice("m7", 160, 55),
    _voice("m8", 170, 50),
    _voice("f1", 165, 50),
    _voice("f2", 175, 55),
    _voice("f3", 160, 45),
    _voice("Annie", 170, 50),
    _voice("Michael", 175, 45),
    _voice("rob", 165, 60),
    _voice("Denis", 170, 55),
)
TEST_VOICES: tuple[Voice, ...] = (
    _voice("m2", 165, 60),
    _voice("f4", 175, 50),
    _voice("max", 170, 45),
)
#: The assistant's voice; the recogniser knows it, so that it can judge resynthesised and generated
#: speech.
ASSISTANT: Voice = TRAIN_VOICES[1]


def vary(voice: Voice, rng: Random) -> Voice:
    """The same speaker a little slower or faster, lower or higher."""
    return Voice(
        voice.name,
        voice.variant,
        round(voice.rate * rng.uniform(0.9, 1.12)),
        voice.pitch + rng.randint(-8, 8),
    )


def speak(synthesiser: Synthesiser, text: str, voice: Voice) -> NDArray[np.float32]:
    """Return speech (n,) at 16 kHz with peak 0.6, its ends trimmed to a little silence."""
    samples = synthesiser.speak(text, voice=voice.variant, rate=voice.rate, pitch=voice.pitch)
    wave = soxr.resample(samples.astype(np.float32), synthesiser.rate, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(wave) > _SILENCE * np.abs(wave).max(initial=0.0))
    wave = wave[loud[0] : loud[-1] + 1] if len(loud) else wave
    return np.concatenate(
        [
            np.zeros(int(_LEAD * SAMPLE_RATE), np.float32),
            normalise(wave),
            np.zeros(int(_TAIL * SAMPLE_RATE), np.float32),
        ]
    )


def normalise(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a wave to the common peak; silence stays silence."""
    peak = float(np.abs(wave).max(initial=0.0))
    return (wave * (_PEAK / peak)).astype(np.float32) if peak > 0 else wave


def say(text: str, *, voice: str, speed: float) -> tuple[NDArray[np.float32], int]:
    """Speak a text, as ``vita-train data speak`` asks for it: the example of a synthesiser.

    Args:
        text: what to say.
        voice: name of a voice of `TRAIN_VOICES` or `TEST_VOICES`; empty takes the first.
        speed: times the voice's usual speed.

    Returns:
        Samples (n,) and their rate.

    Raises:
        UserError: the synthesiser is not installed, or there is no such voice.
    """
    known = {each.name: each for each in (*TRAIN_VOICES, *TEST_VOICES)}
    if voice and voice not in known:
        raise UserError(
            f"there is no voice {voice!r}",
            code="VT-USE-230",
            remedy=f"voices are {', '.join(known)}",
        )
    chosen = known[voice] if voice else TRAIN_VOICES[0]
    quick = Voice(chosen.name, chosen.variant, round(chosen.rate * speed), chosen.pitch)
    return speak(_shared(), text, quick), SAMPLE_RATE


@cache
def _shared() -> Synthesiser:
    return Synthesiser()
