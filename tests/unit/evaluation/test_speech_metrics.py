"""Measures of the codec on signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vita_train.evaluation.speech_metrics import codebook_use, mel_distance


def test_distance_of_a_gain_is_its_logarithm() -> None:
    """A wave e times louder lies 1 away in every band that is above the floor."""
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert mel_distance(wave, wave, 16000) == 0
    assert mel_distance(wave, np.e * wave, 16000) == pytest.approx(1.0, abs=1e-3)


def test_distance_cuts_to_the_shorter_and_takes_short_clips() -> None:
    wave = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    assert mel_distance(wave, np.concatenate([wave, wave]), 16000) == 0
    assert mel_distance(wave[:100], wave[:100], 16000) == 0


def test_codebook_use() -> None:
    even = codebook_use([torch.tensor([[0, 1]]), torch.tensor([2, 3])], 10)
    assert even.used == 4
    assert even.perplexity == pytest.approx(4.0)
    # shares 3/4 and 1/4: exp(0.5623)
    assert codebook_use([torch.tensor([5, 5, 5, 6])], 10).perplexity == pytest.approx(
        1.7548, abs=1e-4
    )
    assert codebook_use([], 10).used == 0
