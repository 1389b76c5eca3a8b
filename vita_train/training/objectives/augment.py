"""Speech features made a little different at every visit: louder, duller, noisier, with stretches
missing.

All of it works on log-mel features, so that stored features serve. Each function draws from the
generator it is given.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far features may be moved. Zero switches a part off."""

    gain: float = 1.5
    """Largest change of loudness, in natural log of energy (1.5 is 6.5 dB)."""
    tilt: float = 1.0
    """Largest change at the lowest and the highest bin, with opposite signs."""
    noise: float = 0.5
    """Share of clips that get noise, 5 to 30 dB below their mean energy."""
    frequency_masks: int = 2
    frequency_width: int = 16
    """Most bins one mask covers."""
    time_masks: int = 2
    time_share: float = 0.05
    """Most of a clip one mask covers."""

    def __call__(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return a changed copy of log-mel features (frames, bins)."""
        frames, bins = features.shape
        features = features + self.gain * _between(-1, 1, generator)
        # A slope over the log spectrum is a filter, as rooms and microphones are
        features = features + self.tilt * _between(-1, 1, generator) * torch.linspace(-1, 1, bins)
        if _between(0, 1, generator) < self.noise:
            features = add_noise(features, _between(5, 30, generator), generator)
        # Masks take the mean, as in SpecAugment, whose features have mean zero and masks zero
        silence = features.mean()
        masks = [(2, min(bins, self.frequency_width))] * self.frequency_masks
        masks += [(1, int(frames * self.time_share))] * self.time_masks
        return masked(features, masks, float(silence), generator)


def masked(
    features: Tensor,
    masks: Sequence[tuple[int, int]],
    value: float,
    generator: torch.Generator,
) -> Tensor:
    """Return log-mel features (frames, bins) with stretches replaced (SpecAugment, Park et al.
    2019), by torchaudio.

    Args:
        features: not changed.
        masks: axis (1 for time, 2 for frequency) and the most it covers, of each.
        value: what stands in their place.
        generator: draws widths and places.
    """
    from torchaudio.functional import mask_along_axis

    batch = features[None]
    # torchaudio draws from torch's own generator, which is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        for axis, most in masks:
            # A width below the bound is drawn.
            batch = mask_along_axis(batch, most + 1, value, axis)
    return batch[0]


def add_noise(features: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    """Return log-mel features (frames, bins) with noise of a random colour, ``decibels`` below the
    mean energy."""
    frames, bins = features.shape
    # Features are logarithms of energy: decibels / 10 * ln 10
    level = features.exp().mean().log() - decibels * math.log(10) / 10
    colour = _between(-1, 1, generator) * torch.linspace(-2, 2, bins)
    flicker = torch.randn(frames, bins, generator=generator) * 0.6
    # Energies add, not their logarithms
    return torch.logaddexp(features, level + colour + flicker)


def sample_generator(seed: int, name: str) -> torch.Generator:
    """Return a generator for one visit to one sample: a function of the step's seed and the
    sample's name."""
    # torch's generator on the CPU looks at the lowest 32 bits of its seed alone, so both must be
    # mixed into them.
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
