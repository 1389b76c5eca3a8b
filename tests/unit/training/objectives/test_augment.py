"""Augmentation of speech features."""

from __future__ import annotations

import torch

from vita_train.training.objectives.augment import Augmentation, add_noise, sample_generator

CLIP = torch.randn(200, 80, generator=torch.Generator().manual_seed(0)) - 5


def test_a_function_of_seed_and_name() -> None:
    def change(seed: int, name: str) -> torch.Tensor:
        return Augmentation()(CLIP, sample_generator(seed, name))

    assert torch.equal(change(1, "a"), change(1, "a"))
    assert not torch.equal(change(1, "a"), change(2, "a"))
    assert not torch.equal(change(1, "a"), change(1, "b"))


def test_input_is_not_touched_and_zero_changes_nothing() -> None:
    before = CLIP.clone()
    off = Augmentation(gain=0, tilt=0, noise=0, frequency_masks=0, time_masks=0)
    assert torch.equal(off(CLIP, sample_generator(0, "a")), CLIP)
    Augmentation()(CLIP, sample_generator(0, "a"))
    assert torch.equal(CLIP, before)


def test_gain_is_constant_and_masks_stay_within_their_limits() -> None:
    gain = Augmentation(tilt=0, noise=0, frequency_masks=0, time_masks=0)
    shift = gain(CLIP, sample_generator(0, "a")) - CLIP
    assert float(shift.max() - shift.min()) < 1e-5
    assert 0 < abs(float(shift.mean())) <= 1.5
    masks = Augmentation(
        gain=0, tilt=0, noise=0, frequency_masks=1, frequency_width=10, time_masks=1, time_share=0.1
    )
    for name in "abcdefgh":
        changed = masks(CLIP, sample_generator(0, name)) != CLIP
        assert int(changed.all(0).sum()) <= 10
        assert int(changed.all(1).sum()) <= 20


def test_noise_fills_quiet_places_and_spares_loud_ones() -> None:
    clip = torch.full((100, 80), -10.0)
    clip[:50] = 5.0
    noisy = add_noise(clip, 10.0, sample_generator(0, "a"))
    assert float((noisy[:50] - clip[:50]).mean()) < 0.5
    assert float((noisy[50:] - clip[50:]).mean()) > 5
