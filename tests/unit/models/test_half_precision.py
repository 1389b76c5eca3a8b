"""What bfloat16 costs: a forward pass of each module with weights and inputs rounded to it, beside
the same in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.foreign import build
from vita_train.models.codec import build_codec
from vita_train.models.speech.decoder import SpeechDecoder
from vita_train.recipe.model import CodecSpec, ModelSpec

#: Half the distance of neighbouring numbers of bfloat16 near 1, which has 8 bits of a number.
ROUNDING = 2.0**-8
#: Roundings of a path through a module, that add up as independent errors do: some tens of
#: additions and products, each of which rounds once. The bound is five times what was measured.
BOUND = 12 * ROUNDING


def relative(found: Tensor, expected: Tensor) -> float:
    """Length of the difference as a share of the length of what is expected."""
    return float((found.float() - expected).norm() / expected.norm())


def pairs(spec: ModelSpec) -> dict[str, tuple[nn.Module, Callable[[nn.Module], Tensor]]]:
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tiles, features = drawn(2, 3, 32, 32), drawn(2, 4, 64)
    clip, frames = drawn(2, 59, 80), drawn(2, 14, 16)
    ids = torch.randint(0, 97, (1, 24), generator=generator)
    lengths = torch.tensor([59, 40])
    modules = build(spec)

    def of(module: nn.Module, tensor: Tensor) -> Tensor:
        return tensor.to(next(module.parameters()).dtype)

    return {
        "llm": (modules["llm"], lambda module: module(ids).logits),
        "vision": (modules["vision"], lambda module: module(of(module, tiles))),
        "projector": (modules["projector"], lambda module: module(of(module, features))),
        "audio_encoder": (modules["audio_encoder"], lambda module: module(clip, lengths)[0][0]),
        "audio_adapter": (
            modules["audio_adapter"],
            lambda module: module(of(module, frames), torch.tensor([14, 14]))[0],
        ),
    }


@pytest.mark.parametrize("name", ["llm", "vision", "projector", "audio_encoder", "audio_adapter"])
@torch.no_grad()
def test_half_precision_stays_within_a_few_roundings(small_spec: ModelSpec, name: str) -> None:
    module, run = pairs(small_spec)[name]
    expected = run(module.eval())
    for parameter in module.parameters():
        parameter.data = parameter.data.bfloat16()
    found = run(module)
    assert found.dtype == torch.bfloat16
    assert 0 < relative(found, expected) < BOUND


@torch.no_grad()
def test_the_codecs_decoder_and_the_speech_decoder_do_too(small_spec: ModelSpec) -> None:
    torch.manual_seed(0)
    codec = build_codec(CodecSpec(channels=64, codebook_size=24, code_dim=32, global_dim=16)).eval()
    codes, voice = torch.randint(0, 24, (1, 6)), torch.randint(0, 24, (1, 8))
    expected = codec.decode(codes, voice)
    decoder = SpeechDecoder(small_spec).eval()
    text, spoken = torch.randn(1, 3, 32), torch.randint(0, 1024, (1, 5))
    arguments = (text, torch.tensor([3]), spoken, torch.tensor([5]))
    loss = float(decoder(*arguments).loss_sum)
    heard = torch.randn(1, 1200) * 0.1
    full = codec.global_vector(heard)
    for module in (codec, decoder):
        for parameter in module.parameters():
            parameter.data = parameter.data.bfloat16()
    assert relative(codec.decode(codes, voice), expected) < BOUND
    assert relative(codec.global_vector(heard), full) < BOUND
    assert abs(float(decoder(*arguments).loss_sum) / loss - 1) < BOUND
