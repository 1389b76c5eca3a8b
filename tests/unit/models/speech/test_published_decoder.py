"""The speech decoder as published against its computation, written out here with nothing but
torch.nn.functional: loss, masks and greedy codes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vita_train.models.speech.decoder import SpeechDecoder, _mask
from vita_train.recipe.model import CodecSpec, LlmSpec, ModelSpec, SpeechDecoderSpec

CODES, WIDTH, HEADS = 20, 32, 4
SEPARATOR, START, END = CODES, CODES + 1, CODES + 2
SPEC = ModelSpec(
    llm=LlmSpec(hidden_size=64, num_heads=4),
    codec=CodecSpec(codebook_size=CODES),
    speech_decoder=SpeechDecoderSpec(
        width=WIDTH,
        nar_layers=2,
        ar_layers=3,
        num_heads=HEADS,
        intermediate_size=64,
        text_norm=False,
        head_bias=True,
        max_positions=64,
        max_codes=24,
    ),
)

State = Mapping[str, Tensor]


@pytest.fixture
def decoder() -> SpeechDecoder:
    torch.manual_seed(0)
    decoder = SpeechDecoder(SPEC).eval()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 2:  # larger weights, so that a wrong mask or position shows
                parameter.mul_(6)
    return decoder


def state_of(decoder: SpeechDecoder) -> State:
    return {name: value.detach() for name, value in decoder.named_parameters()}


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn pairs (i, i + d/2) of each head (H, L, d) by position times 10000^(-2i/d)."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * 10000.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        [
            first * angle.cos() - second * angle.sin(),
            second * angle.cos() + first * angle.sin(),
        ],
        -1,
    )


def layer(state: State, name: str, x: Tensor, seen: Tensor) -> Tensor:
    """One Llama block over positions (L, width); ``seen`` (L, L) says who looks at whom."""
    normed = rms(x, state[f"{name}.input_layernorm.weight"])
    query, key, value = (
        F.linear(normed, state[f"{name}.self_attn.{part}_proj.weight"])
        .view(len(x), HEADS, -1)
        .transpose(0, 1)
        for part in "qkv"
    )
    positions = torch.arange(len(x)).float()
    scores = rotate(query, positions) @ rotate(key, positions).transpose(1, 2)
    scores = (scores / math.sqrt(WIDTH // HEADS)).masked_fill(~seen, -torch.inf)
    mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(len(x), WIDTH)
    x = x + F.linear(mixed, state[f"{name}.self_attn.o_proj.weight"])
    normed = rms(x, state[f"{name}.post_attention_layernorm.weight"])
    gate = F.silu(F.linear(normed, state[f"{name}.mlp.gate_proj.weight"]))
    inner = gate * F.linear(normed, state[f"{name}.mlp.up_proj.weight"])
    return x + F.linear(inner, state[f"{name}.mlp.down_proj.weight"])


def who_sees_whom(text: int, speech: int) -> Tensor:
    """(L, L): the text block all of itself, speech all of the text and what was said so far."""
    seen = torch.zeros(text + speech, text + speech, dtype=torch.bool)
    seen[:, :text] = True
    for place in range(text, text + speech):
        seen[place, text : place + 1] = True
    return seen


def plain_logits(state: State, embeds: Tensor, made: list[int]) -> Tensor:
    """Scores (1 + T, V) of what follows the start and each of the codes, for one text (n, 64)."""
    text = embeds.reshape(-1, WIDTH)
    everywhere = torch.ones(len(text), len(text), dtype=torch.bool)
    for number in range(2):
        text = layer(state, f"nar_layers.{number}", text, everywhere)
    table = state["embedding.weight"]
    x = torch.cat([table[SEPARATOR][None], text, table[[START, *made]]])
    block = 1 + len(text)
    for number in range(3):
        x = layer(state, f"ar_layers.{number}", x, who_sees_whom(block, 1 + len(made)))
    return F.linear(rms(x[block:], state["norm.weight"]), state["head.weight"], state["head.bias"])


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        0.3 * torch.randn(3, 5, 64, generator=generator),
        torch.tensor([5, 2, 3]),
        torch.randint(CODES, (3, 9), generator=generator),
        torch.tensor([4, 9, 6]),
    )


def test_the_loss_is_the_published_one(decoder: SpeechDecoder) -> None:
    """Summed cross-entropy of each row alone; padding has no part in it."""
    embeds, text_lengths, codes, code_lengths = batch()
    found = decoder(embeds, text_lengths, codes, code_lengths)
    rows = zip(embeds, text_lengths.tolist(), codes, code_lengths.tolist(), strict=True)
    wanted = torch.stack(
        [
            F.cross_entropy(
                plain_logits(state_of(decoder), text[:words], said[:number].tolist()),
                torch.cat([said[:number], torch.tensor([END])]),
                reduction="sum",
            )
            for text, words, said, number in rows
        ]
    ).sum()
    torch.testing.assert_close(found.loss_sum, wanted, atol=1e-5, rtol=1e-5)


def test_the_masks_are_the_published_ones(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, _, _ = batch()
    text = decoder._encode_text(embeds, text_lengths)
    block = text.hidden.shape[1]
    masks = _mask(text, 4)[:, 0]
    for mask, length in zip(masks, text.lengths.tolist(), strict=True):
        real = [*range(length), *range(block, block + 4)]
        assert torch.equal(mask[real][:, real], who_sees_whom(length, 4))
        assert not mask[real][:, length:block].any()


def test_greedy_codes_are_the_published_ones(decoder: SpeechDecoder) -> None:
    """But that special ids other than the end are never said."""
    state, embeds = state_of(decoder), batch()[0]
    for text in embeds:
        made: list[int] = []
        while len(made) < 24:
            scores = plain_logits(state, text, made)[-1]
            scores[[SEPARATOR, START, CODES + 3]] = -torch.inf
            chosen = int(scores.argmax())
            if chosen == END:
                break
            made.append(chosen)
        assert list(decoder.generate(text[None], top_k=1)) == made


def test_the_text_is_taken_as_it_is(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, codes, code_lengths = batch()
    losses = [
        decoder(scale * embeds, text_lengths, codes, code_lengths).loss_sum for scale in (1, 10)
    ]
    assert (losses[0] - losses[1]).abs() > 1e-3  # with text_norm it would be rounding
    assert not [name for name in state_of(decoder) if name.startswith("text_norm")]
