"""Audio that is not speech to anybody: a radio in the room, noise, hum, beeps, near silence."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vita_train.data.sources.synth.voices import SAMPLE_RATE, normalise

Wave = NDArray[np.float32]

#: Sounds without words.
NOISES: tuple[str, ...] = ("quiet", "noise", "hum", "beeps")
_RADIO_BAND = (350.0, 2800.0)
"""Hertz a small radio lets through."""


def through_radio(speech: Wave, rng: Generator) -> Wave:
    """Speech (n,) as a small radio plays it: narrow band, hiss and a carrier tone."""
    spectrum = np.fft.rfft(speech)
    hertz = np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE)
    spectrum[(hertz < _RADIO_BAND[0]) | (hertz > _RADIO_BAND[1])] = 0
    narrow = normalise(np.fft.irfft(spectrum, len(speech)).astype(np.float32))
    hiss = 0.02 * rng.standard_normal(len(speech))
    carrier = 0.02 * np.sin(2 * np.pi * rng.uniform(800, 1200) * _time(len(speech)))
    return normalise((narrow + hiss + carrier).astype(np.float32))


def make_noise(kind: str, rng: Generator) -> Wave:
    """Draw one to two seconds (n,) of an audio clip of ``NOISES``."""
    number = int(rng.uniform(1.0, 2.0) * SAMPLE_RATE)
    floor = 0.001 * rng.standard_normal(number)
    if kind == "quiet":
        return floor.astype(np.float32)
    if kind == "noise":
        # A random first-order filter: from hiss to rumble.
        white, mix = rng.standard_normal(number), rng.uniform(0.0, 0.95)
        response = 1.05 - mix * np.exp(-1j * np.pi * np.linspace(0, 1, number // 2 + 1))
        colour = np.fft.irfft(np.fft.rfft(white) / response, number)
        return (rng.uniform(0.1, 0.9) * normalise(colour.astype(np.float32))).astype(np.float32)
    time = _time(number)
    if kind == "hum":
        base = rng.uniform(50, 300)
        tone = sum(rng.uniform(0.2, 1) * np.sin(2 * np.pi * base * k * time) for k in (1, 2, 3))
    else:
        pulse = np.floor(time * rng.uniform(2, 6)) % 2
        tone = pulse * np.sin(2 * np.pi * rng.uniform(400, 2000) * time)
    return normalise((floor + tone).astype(np.float32))


def _time(number: int) -> NDArray[np.float64]:
    return np.arange(number) / SAMPLE_RATE
