"""A clip encoded while it is heard equals the clip encoded whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.models.audio.encoder import AudioEncoder
from vita_train.models.audio.stream import AudioStream
from vita_train.recipe.audio import AudioEncoderSpec

SMALL = {
    "width": 16,
    "conv_channels": 4,
    "num_layers": 3,
    "num_heads": 2,
    "intermediate_size": 24,
    "chunk_size": 4,
}


def encoder(**changes: object) -> AudioEncoder:
    torch.manual_seed(0)
    model = AudioEncoder(AudioEncoderSpec.model_validate(SMALL | changes)).eval()
    model.set_cmvn(torch.randn(80), torch.rand(80) + 0.5)
    return model


def streamed(stream: AudioStream, fbank: Tensor, piece: int) -> Tensor:
    parts = [stream.push(fbank[start : start + piece]) for start in range(0, len(fbank), piece)]
    return torch.cat([*parts, stream.finish()])


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"left_chunks": 0},
        {"left_chunks": 2},
        {"chunk_size": 1, "left_chunks": 3},
        {"relative_shift": True},
        {"relative_shift": True, "left_chunks": 1},
        {"max_positions": 10, "left_chunks": 1},
        {"max_positions": 8},
    ],
)
@pytest.mark.parametrize("piece", [1, 10, 37, 1000])
def test_a_stream_equals_the_whole_clip(changes: dict[str, object], piece: int) -> None:
    model = encoder(**changes)
    stream = AudioStream(model)
    for frames in (7, 19, 120, 133):  # one stream, one clip after the other
        fbank = torch.randn(frames, 80)
        whole, _ = model(fbank[None], torch.tensor([frames]))
        torch.testing.assert_close(streamed(stream, fbank, piece), whole[0], atol=1e-4, rtol=1e-4)


def test_a_chunk_is_encoded_as_soon_as_it_is_heard() -> None:
    stream = AudioStream(encoder())
    counts = [len(stream.push(torch.randn(1, 80))) for _ in range(4 * 8 + 3)]
    assert [place for place, count in enumerate(counts, 1) if count] == [4 * 4 + 3, 4 * 8 + 3]
    assert sum(counts) == 8
    assert len(stream.finish()) == 0


def test_only_what_later_chunks_see_is_kept() -> None:
    stream = AudioStream(encoder(left_chunks=2))
    stream.push(torch.randn(1000, 80))
    assert {len(cache) for cache in stream._caches} == {2 * 4}
    assert len(stream._heard) < 4 * 4 + 3


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [("chunk_size", 0, "VT-RECIPE-016"), ("conv_kernel", 5, "VT-RECIPE-017")],
)
def test_an_encoder_that_looks_ahead_is_refused(setting: str, value: int, code: str) -> None:
    with raises_code(RecipeError, code, f"model.audio_encoder.{setting}"):
        AudioStream(encoder(**{setting: value}))
