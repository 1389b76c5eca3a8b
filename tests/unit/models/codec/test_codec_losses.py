"""Losses and spectrograms of the codec against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vita_train.models.codec import build_discriminators
from vita_train.models.codec.losses import (
    adversarial_loss,
    consistency_loss,
    discriminator_loss,
    feature_matching_loss,
    mel_loss,
)
from vita_train.models.codec.mel import MelSettings, log_mel, loss_resolution
from vita_train.recipe.model import CodecSpec


def hertz_to_mel(hertz: float) -> float:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def mel_to_hertz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) * (mel - 15) / 27)


def reference_log_mel(wave: np.ndarray, rate: int, n_fft: int, hop: int, mels: int) -> np.ndarray:
    """Frame by frame in float64."""
    margin = n_fft - hop
    padded = np.pad(wave.astype(np.float64), (margin // 2, margin - margin // 2), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    edges = [mel_to_hertz(m) for m in np.linspace(0, hertz_to_mel(rate / 2), mels + 2)]
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    frames = []
    for start in range(0, len(padded) - n_fft + 1, hop):
        magnitude = np.abs(np.fft.rfft(padded[start : start + n_fft] * window))
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
            weights = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
            row.append(np.log(max(weights @ magnitude, 1e-5)))
        frames.append(row)
    return np.array(frames).T


@pytest.mark.parametrize(
    ("rate", "n_fft", "hop", "mels"), [(16000, 512, 100, 80), (24000, 1024, 240, 80)]
)
def test_log_mel_is_what_the_definition_says(rate: int, n_fft: int, hop: int, mels: int) -> None:
    time = np.arange(hop * 12) / rate
    generator = np.random.default_rng(0)
    wave = (
        0.3 * np.sin(2 * np.pi * 440 * time) + 0.05 * generator.standard_normal(len(time))
    ).astype(np.float32)
    found = log_mel(torch.from_numpy(wave)[None], MelSettings(rate, n_fft, hop, mels))[0].numpy()
    wanted = reference_log_mel(wave, rate, n_fft, hop, mels)
    assert found.shape == wanted.shape == (mels, 12)
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_loss_resolutions_are_in_proportion() -> None:
    assert [loss_resolution(24000, n).hop for n in (1024, 512, 256)] == [240, 120, 60]


def test_silence_has_a_finite_gradient() -> None:
    wave = torch.zeros(1, 2000, requires_grad=True)
    log_mel(wave, loss_resolution(16000, 512)).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_mel_loss_weights_resolutions() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 1, 4000)
    alone = [mel_loss(first, second, 16000, {n: 1.0}) for n in (512, 256)]
    both = mel_loss(first, second, 16000, {512: 45.0, 256: 2.0})
    torch.testing.assert_close(both, 45 * alone[0] + 2 * alone[1])
    assert mel_loss(first, first, 16000).item() == 0


def test_least_squares_losses() -> None:
    real = [
        (torch.tensor([[1.0, 0.0]]), [torch.zeros(2)]),
        (torch.tensor([[3.0]]), [torch.ones(2), torch.ones(4)]),
    ]
    made = [
        (torch.tensor([[2.0, 0.0]]), [torch.ones(2)]),
        (torch.tensor([[-1.0]]), [torch.ones(2), torch.zeros(4)]),
    ]
    # (0 + 1) / 2 + (4 + 0) / 2, then 4 + 1
    assert discriminator_loss(real, made).item() == pytest.approx(0.5 + 2.0 + 4.0 + 1.0)
    # (1 + 1) / 2, then 4
    assert adversarial_loss(made).item() == pytest.approx(1.0 + 4.0)
    # twice the sum of 1, 0 and 1
    assert feature_matching_loss(real, made).item() == pytest.approx(4.0)


def test_feature_matching_does_not_move_the_real_side() -> None:
    real, made = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    feature_matching_loss([(real, [real])], [(made, [made])]).backward()
    assert real.grad is None
    assert made.grad is not None


def test_consistency_is_one_minus_cosine_and_detaches_the_second() -> None:
    first = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
    second = torch.tensor([[0.0, 1.0], [2.0, 2.0]], requires_grad=True)
    loss = consistency_loss(first, second)
    assert loss.item() == pytest.approx(0.5)
    loss.backward()
    assert second.grad is None


def test_discriminators_learn_to_tell_real_from_made() -> None:
    torch.manual_seed(0)
    judges = build_discriminators(CodecSpec(channels=64, global_dim=32))
    time = torch.arange(4096) / 16000
    real = torch.sin(2 * torch.pi * torch.tensor([[200.0], [300.0]]) * time)
    made = 0.5 * torch.randn(2, 4096)
    optimizer = torch.optim.AdamW(judges.parameters(), lr=1e-3)
    history = []
    for _ in range(8):
        loss = discriminator_loss(judges(real), judges(made))
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.75 * history[0]
    assert all(parameter.grad is not None for parameter in judges.parameters())
