"""The codec's networks: shapes, lengths, gradients, learning."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.models.codec import Codec, build_codec, build_discriminators
from vita_train.models.codec.losses import mel_loss
from vita_train.models.codec.spectral import overlap_add
from vita_train.recipe.model import CodecSpec

WAVEFORM = CodecSpec(
    sample_rate=8000,
    hop_length=24,
    upsample_rates=(4, 3, 2),
    upsample_kernels=(8, 7, 4),
    channels=32,
    codebook_size=32,
    code_dim=16,
    num_global_tokens=2,
    global_dim=8,
    segment=960,
)
SPECTRAL = CodecSpec(
    kind="spectral",
    sample_rate=8000,
    hop_length=160,
    channels=32,
    num_blocks=2,
    codebook_size=32,
    code_dim=16,
    quantizer="ema",
    num_global_tokens=2,
    global_dim=8,
    segment=3200,
)


def seeded(spec: CodecSpec) -> Codec:
    torch.manual_seed(0)
    return build_codec(spec)


def tones(batch: int, samples: int, rate: int) -> torch.Tensor:
    """Return harmonic tones of different pitch, (B, S)."""
    time = torch.arange(samples) / rate
    pitch = torch.linspace(110, 220, batch)[:, None]
    return 0.2 * sum(torch.sin(2 * torch.pi * pitch * k * time) / k for k in range(1, 6))


def test_real_size_on_the_meta_device() -> None:
    with torch.device("meta"):
        codec, discriminators = build_codec(CodecSpec()), build_discriminators(CodecSpec())
        output = codec(torch.zeros(2, 24000))
        judged = discriminators(output.wave)
    assert output.wave.shape == (2, 24000)  # 40 codes a second at 24 kHz
    assert output.codes.shape == (2, 40)
    assert output.global_tokens.shape == (2, 8)
    assert output.global_vector.shape == (2, 128)
    assert len(judged) == 5 + 3 + 3
    assert codec.quantizer.codebook.shape == (1024, 512)
    assert codec.encoder.global_channels == 128
    assert codec.encoder.inlet.weight.shape == (32, 1, 7)


@pytest.mark.parametrize("spec", [WAVEFORM, SPECTRAL], ids=["waveform", "spectral"])
@pytest.mark.parametrize("codes", [9.0, 9.5])
def test_lengths(spec: CodecSpec, codes: float) -> None:
    """A begun code counts whole: ceil(S / hop) codes, and decoding gives that many hops."""
    codec = seeded(spec).eval()
    wave = tones(2, int(codes * spec.hop_length), spec.sample_rate)
    ids, tokens = codec.encode(wave)
    assert ids.shape == (2, -(-wave.shape[1] // spec.hop_length))
    assert tokens.shape == (2, 2)
    assert ids.dtype == tokens.dtype == torch.long
    assert codec.decode(ids, tokens).shape == (2, ids.shape[1] * spec.hop_length)


@pytest.mark.parametrize("spec", [WAVEFORM, SPECTRAL], ids=["waveform", "spectral"])
def test_decoding_codes_is_reconstruction(spec: CodecSpec) -> None:
    """What training saw is what decoding codes from disk gives: quantised vectors hold nothing but
    the codes."""
    codec = seeded(spec).eval()
    output = codec(tones(2, 10 * spec.hop_length, spec.sample_rate))
    torch.testing.assert_close(
        codec.decode(output.codes, output.global_tokens), output.wave, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("spec", [WAVEFORM, SPECTRAL], ids=["waveform", "spectral"])
def test_every_parameter_receives_a_gradient(spec: CodecSpec) -> None:
    codec = seeded(spec)
    output = codec(tones(4, spec.segment, spec.sample_rate))
    (output.wave.square().mean() + output.quantizer_loss).backward()
    without = [name for name, parameter in codec.named_parameters() if parameter.grad is None]
    assert without == []


def test_generator_without_room_for_the_voice_is_refused() -> None:
    with raises_code(RecipeError, "VT-RECIPE-021"):
        build_codec(WAVEFORM.model_copy(update={"global_dim": 12}))


def test_spectral_hop_must_divide_into_frames() -> None:
    with raises_code(RecipeError, "VT-RECIPE-020"):
        build_codec(SPECTRAL.model_copy(update={"hop_length": 162}))


def test_voice_reaches_the_wave() -> None:
    for spec in (WAVEFORM, SPECTRAL):
        codec = seeded(spec).eval()
        codes = torch.zeros(1, 6, dtype=torch.long)
        first = codec.decode(codes, torch.tensor([[0, 0]]))
        second = codec.decode(codes, torch.tensor([[5, 7]]))
        assert not torch.allclose(first, second)


def test_overlap_add_rebuilds_a_wave_from_its_frames() -> None:
    hop, number = 20, 12
    torch.manual_seed(0)
    wave = torch.randn(1, hop * number)
    window = torch.hann_window(4 * hop)
    frames = F.pad(wave, (30, 30)).unfold(1, 4 * hop, hop) * window
    torch.testing.assert_close(overlap_add(frames, hop), wave, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", [WAVEFORM, SPECTRAL], ids=["waveform", "spectral"])
def test_a_few_steps_lower_the_loss(spec: CodecSpec) -> None:
    codec = seeded(spec)
    wave = tones(2, spec.segment, spec.sample_rate)
    codec.start(wave)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    history = []
    for _ in range(20):
        output = codec(wave)
        loss = mel_loss(wave, output.wave, spec.sample_rate, {256: 1.0, 128: 1.0})
        history.append(loss.item())
        optimizer.zero_grad()
        (loss + output.quantizer_loss).backward()
        optimizer.step()
        codec.after_step()
    assert sum(history[-3:]) < 0.8 * sum(history[:3])


def test_bfloat16_parameters_with_float32_codebooks() -> None:
    codec = seeded(SPECTRAL).eval()
    for parameter in codec.parameters():
        parameter.data = parameter.data.bfloat16()
    wave = tones(1, 1600, 8000)
    codes, tokens = codec.encode(wave)
    assert codec.quantizer.codebook.dtype == torch.float32
    assert codec.decode(codes, tokens).isfinite().all()
