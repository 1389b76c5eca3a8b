"""Adapters of every kind: what they compute, the lengths they give, and that padding never
matters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.omni_batches import document
from vita_train.models.audio.adapter import (
    AudioAdapter,
    AudioPrompt,
    CnnAdapter,
    FrameBatchNorm,
    SubsamplingAdapter,
    build_audio_adapter,
)
from vita_train.models.audio.encoder import Subsampling, encoder_length
from vita_train.models.build import build_modules
from vita_train.models.omni import Omni
from vita_train.planning.parameters import count_parameters
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.special_ids import AUDIO_ID

KINDS: list[dict[str, Any]] = [
    {"hidden_size": 24},
    {"hidden_size": 24, "norm": "batch", "activation": "relu"},
    {"hidden_size": 24, "stride": 3},
    {"kind": "cnn"},
    {"kind": "cnn", "kernel": 2},
    {"kind": "linear"},
]
OMNI = ("llm", "audio_encoder", "audio_adapter", "audio_prompt")


def with_adapter(spec: ModelSpec, settings: dict[str, Any]) -> ModelSpec:
    return ModelSpec.model_validate(spec.model_dump() | {"audio_adapter": settings})


def built(spec: ModelSpec, settings: dict[str, Any]) -> AudioAdapter:
    """An adapter whose running statistics are those of some training."""
    torch.manual_seed(0)
    adapter = build_audio_adapter(with_adapter(spec, settings)).eval()
    for layer in adapter.modules():
        if isinstance(layer, FrameBatchNorm):
            layer.running_mean = torch.randn(layer.num_features)
            layer.running_var = torch.rand(layer.num_features) + 0.5
    return adapter


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 17_835_520),
        ({"norm": "batch"}, 17_835_520),
        (
            {"kind": "cnn"},
            (1024 * 5 + 1) * 2048 + 2 * 2048 + (2048 * 5 + 1) * 4096 + 2 * 4096 + (4096 + 1) * 3584,
        ),
        ({"kind": "linear"}, (1024 + 1) * 3584),
    ],
)
def test_parameter_counts(settings: dict[str, Any], count: int) -> None:
    spec = ModelSpec.model_validate({"audio_adapter": settings | {"prompt_tokens": 25}})
    counts = count_parameters(spec, ("audio_encoder", "audio_adapter", "audio_prompt"))
    assert counts == {"audio_encoder": 357_950_464, "audio_adapter": count, "audio_prompt": 89_600}


@torch.no_grad()
@pytest.mark.parametrize("settings", KINDS)
def test_known_lengths_are_those_of_the_modules(
    small_spec: ModelSpec, settings: dict[str, Any]
) -> None:
    spec = with_adapter(small_spec, settings | {"prompt_tokens": 3})
    adapter, prompt = built(small_spec, settings), AudioPrompt(3, spec.llm.hidden_size)
    subsampling = Subsampling(bins=7, channels=1, width=1)
    for frames in range(7, 601):
        encoded = subsampling(torch.zeros(1, frames, 7)).shape[1]
        assert encoded == int(encoder_length(torch.tensor(frames)))
        hidden, counts = prompt(
            *adapter(torch.zeros(1, encoded, spec.audio_encoder.width), torch.tensor([encoded]))
        )
        assert hidden.shape == (1, int(counts), spec.llm.hidden_size)
        assert spec.audio_adapter.tokens_of(frames) == int(counts)
    assert [spec.audio_adapter.tokens_of(frames) for frames in (0, 6)] == [0, 0]


@torch.no_grad()
@pytest.mark.parametrize("settings", KINDS)
def test_a_clip_in_a_batch_equals_the_clip_alone(
    small_spec: ModelSpec, settings: dict[str, Any]
) -> None:
    adapter = built(small_spec, settings)
    frames, lengths = torch.randn(3, 9, 16), torch.tensor([9, 4, 1])
    hidden, counts = adapter(frames, lengths)
    for clip, length, out, count in zip(frames, lengths, hidden, counts, strict=True):
        alone, _ = adapter(clip[None, :length], length[None])
        assert alone.shape[1] == count
        torch.testing.assert_close(out[:count], alone[0], atol=1e-6, rtol=1e-5)
    frames[1, 4:] = float("nan")
    assert torch.equal(adapter(frames, lengths)[0][1, : counts[1]], hidden[1, : counts[1]])


def test_the_subsampling_adapter_equals_windows_padded_on_the_right(small_spec: ModelSpec) -> None:
    adapter = built(small_spec, {"hidden_size": 24})
    assert isinstance(adapter, SubsamplingAdapter)
    frames = torch.randn(1, 6, 16)
    hidden, counts = adapter(frames, torch.tensor([6]))
    assert counts.tolist() == [3]
    padded = nn.functional.pad(frames[0], (0, 0, 0, 4))
    for t in range(3):
        window = (
            torch.einsum("tc,oct->o", padded[2 * t : 2 * t + 5], adapter.conv.weight)
            + adapter.conv.bias
        )
        normed = (window - window.mean()) / (window.var(unbiased=False) + 1e-3).sqrt()
        expected = adapter.project(
            nn.functional.gelu(normed * adapter.norm.weight + adapter.norm.bias)
        )
        torch.testing.assert_close(hidden[0, t], expected, atol=1e-5, rtol=1e-5)


def test_the_cnn_adapter_equals_two_causal_windows(small_spec: ModelSpec) -> None:
    adapter = built(small_spec, {"kind": "cnn"})
    assert isinstance(adapter, CnnAdapter)
    frames = torch.randn(1, 6, 16)
    hidden, counts = adapter(frames, torch.tensor([6]))
    assert counts.tolist() == [6]

    def layer(values: Tensor, conv: nn.Conv1d, norm: FrameBatchNorm) -> Tensor:
        padded = nn.functional.pad(values, (0, 0, 4, 0))
        windows = [
            torch.einsum("tc,oct->o", padded[t : t + 5], conv.weight) + conv.bias
            for t in range(len(values))
        ]
        normed = (torch.stack(windows) - norm.running_mean) / (norm.running_var + 1e-3).sqrt()
        return (normed * norm.weight + norm.bias).clamp(min=0)

    expected = adapter.project(
        layer(layer(frames[0], adapter.conv1, adapter.norm1), adapter.conv2, adapter.norm2)
    )
    torch.testing.assert_close(hidden[0], expected, atol=1e-5, rtol=1e-5)


def test_batch_statistics_are_those_of_real_frames() -> None:
    norm = FrameBatchNorm(4)
    frames, counts = torch.randn(2, 5, 4), torch.tensor([5, 2])
    real = torch.cat((frames[0], frames[1, :2]))
    frames[1, 2:] = 1e6
    normed = norm(frames, counts)
    expected = (real - real.mean(0)) / (real.var(0, unbiased=False) + 1e-3).sqrt()
    torch.testing.assert_close(
        torch.cat((normed[0], normed[1, :2])), expected, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(norm.running_mean, 0.01 * real.mean(0))
    kept = norm.running_mean.clone()
    assert (
        norm(torch.ones(1, 1, 4), torch.tensor([1])).isfinite().all()
    )  # one frame has no variance
    assert torch.equal(norm.running_mean, kept)


def test_half_precision_weights_keep_statistics_in_float32(small_spec: ModelSpec) -> None:
    spec = with_adapter(small_spec, {"kind": "cnn"})
    adapter = build_modules(spec, ["audio_adapter"], dtype=torch.bfloat16)["audio_adapter"].train()
    hidden, _ = adapter(torch.randn(2, 9, 16, dtype=torch.bfloat16), torch.tensor([9, 4]))
    assert (hidden.dtype, adapter.norm1.running_var.dtype) == (torch.bfloat16, torch.float32)


def test_the_prompt_stands_before_every_clip(small_spec: ModelSpec) -> None:
    spec = with_adapter(small_spec, {"hidden_size": 24, "prompt_tokens": 3})
    omni = Omni(build_modules(spec, OMNI, seed=3)).eval()
    fbank, lengths = torch.randn(2, 40, 80), torch.tensor([40, 20])
    features = omni.audio_features(fbank, lengths)
    counts = [spec.audio_adapter.tokens_of(frames) for frames in (40, 20)]
    assert [omni.audio_positions(frames) for frames in (40, 20)] == counts
    assert len(features) == sum(counts)
    plain = Omni(
        nn.ModuleDict(
            {name: module for name, module in omni.named_children() if name != "audio_prompt"}
        )
    )
    bare = plain.audio_features(fbank, lengths).split([count - 3 for count in counts])
    for clip, without in zip(features.split(counts), bare, strict=True):
        assert torch.equal(clip[:3], omni.audio_prompt.weight)
        assert torch.equal(clip[3:], without)


def test_the_prompt_trains_alone(small_spec: ModelSpec) -> None:
    spec = with_adapter(small_spec, {"hidden_size": 24, "prompt_tokens": 3})
    omni = Omni(build_modules(spec, OMNI, seed=3)).eval().requires_grad_(False)
    omni.audio_prompt.requires_grad_(True)
    batch = document(1, 9, frames=40)
    batch.input_ids = torch.cat(
        (batch.input_ids[:, :4], torch.full((1, 3), AUDIO_ID), batch.input_ids[:, 4:]), dim=1
    )
    batch.position_ids, batch.document_ids = (
        torch.arange(batch.input_ids.shape[1])[None],
        batch.input_ids.new_ones(batch.input_ids.shape),
    )
    omni(batch).square().sum().backward()
    assert omni.audio_prompt.weight.grad.abs().sum() > 0
    assert all(
        p.grad is None for name, p in omni.named_parameters() if not name.startswith("audio_prompt")
    )
