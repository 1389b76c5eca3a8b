"""Dropout in training mode, counted: the share that is dropped, and that the mean stays."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vita_train.models.audio.encoder import AudioEncoder
from vita_train.models.speech.decoder import SpeechDecoder
from vita_train.recipe.audio import AudioEncoderSpec
from vita_train.recipe.model import ModelSpec

RATE = 0.2


def within(share: float, expected: float, draws: int) -> bool:
    """Whether a share is within five standard deviations of a binomial one's mean."""
    return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / draws)


def watch(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What goes into every dropout of a module and what comes out, once it has run."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, given: Any, made: Tensor) -> None:
        seen.append((given[0].detach(), made.detach()))

    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.register_forward_hook(note)
    return seen


def check(seen: list[tuple[Tensor, Tensor]], rates: set[float]) -> None:
    found: dict[float, list[tuple[int, int]]] = {rate: [] for rate in rates}
    for given, made in seen:
        nonzero = given != 0
        dropped, draws = int((nonzero & (made == 0)).sum()), int(nonzero.sum())
        rate = min(rates, key=lambda rate: abs(rate - dropped / draws))
        found[rate].append((dropped, draws))
        kept = nonzero & (made != 0)
        torch.testing.assert_close(made[kept], given[kept] / (1 - rate))
    for rate, counts in found.items():
        total = sum(draws for _, draws in counts)
        assert total > 1000
        assert within(sum(dropped for dropped, _ in counts) / total, rate, total)


@pytest.mark.parametrize("attention", [None, 0.5])
def test_the_encoder_drops_what_its_settings_say(attention: float | None) -> None:
    spec = AudioEncoderSpec(
        width=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        dropout=RATE,
        attention_dropout=attention,
        dynamic_chunks=False,
    )
    torch.manual_seed(0)
    encoder = AudioEncoder(spec)
    seen = watch(encoder)
    fbank, lengths = torch.randn(4, 200, 80), torch.full((4,), 200)
    encoder.train()(fbank, lengths)
    check(seen, {RATE} if attention is None else {RATE, attention})
    seen.clear()
    first, second = (encoder.eval()(fbank, lengths)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(given, made) for given, made in seen)


def test_the_speech_decoder_drops_before_the_parts_are_joined(small_spec: ModelSpec) -> None:
    spec = small_spec.model_copy(
        update={"speech_decoder": small_spec.speech_decoder.model_copy(update={"dropout": RATE})}
    )
    torch.manual_seed(0)
    decoder = SpeechDecoder(spec)
    seen = watch(decoder)
    text, codes = torch.randn(4, 20, 32), torch.randint(0, 1024, (4, 60))
    decoder.train()(text, torch.full((4,), 20), codes, torch.full((4,), 60))
    assert len(seen) == 2  # the text, and the speech with its start
    check(seen, {RATE})
