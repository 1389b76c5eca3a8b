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


PREFIXED = SPEC.model_copy(
    update={"speech_decoder": SPEC.speech_decoder.model_copy(update={"prefix": True})}
)


@pytest.fixture
def decoder() -> SpeechDecoder:
    return made_of(SPEC)


def made_of(spec: ModelSpec) -> SpeechDecoder:
    torch.manual_seed(0)
    decoder = SpeechDecoder(spec).eval()
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


Keys = tuple[Tensor, Tensor]
"""(H, P, d) keys, turned, and values."""


def layer(
    state: State, name: str, x: Tensor, seen: Tensor, before: Keys | None = None
) -> tuple[Tensor, Keys]:
    """One Llama block over positions (L, width), and its keys and values; ``seen`` (L, L) says who
    looks at whom. All look at what is ``before``."""
    normed = rms(x, state[f"{name}.input_layernorm.weight"])
    query, key, value = (
        F.linear(normed, state[f"{name}.self_attn.{part}_proj.weight"])
        .view(len(x), HEADS, -1)
        .transpose(0, 1)
        for part in "qkv"
    )
    positions = torch.arange(len(x)).float()
    key = rotate(key, positions)
    own = key, value
    if before is not None:
        key, value = (torch.cat(pair, 1) for pair in zip(before, own, strict=True))
        seen = torch.cat([seen.new_ones(len(x), before[0].shape[1]), seen], 1)
    scores = rotate(query, positions) @ key.transpose(1, 2)
    scores = (scores / math.sqrt(WIDTH // HEADS)).masked_fill(~seen, -torch.inf)
    mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(len(x), WIDTH)
    x = x + F.linear(mixed, state[f"{name}.self_attn.o_proj.weight"])
    normed = rms(x, state[f"{name}.post_attention_layernorm.weight"])
    gate = F.silu(F.linear(normed, state[f"{name}.mlp.gate_proj.weight"]))
    inner = gate * F.linear(normed, state[f"{name}.mlp.up_proj.weight"])
    return x + F.linear(inner, state[f"{name}.mlp.down_proj.weight"]), own


def who_sees_whom(text: int, speech: int) -> Tensor:
    """(L, L): the text block all of itself, speech all of the text and what was said so far."""
    seen = torch.zeros(text + speech, text + speech, dtype=torch.bool)
    seen[:, :text] = True
    for place in range(text, text + speech):
        seen[place, text : place + 1] = True
    return seen


def prefix_keys(state: State, hidden: Tensor) -> list[Keys]:
    """Keys and values of each layer over hidden states (n, 64); positions count from 0."""
    x, found = hidden.reshape(-1, WIDTH), []
    for number in range(3):
        everywhere = torch.ones(len(x), len(x), dtype=torch.bool)
        x, keys = layer(state, f"prefix.layers.{number}", x, everywhere)
        found.append(keys)
    return found


def plain_logits(
    state: State, embeds: Tensor, made: list[int], hidden: Tensor | None = None
) -> Tensor:
    """Scores (1 + T, V) of what follows the start and each of the codes, for one text (n, 64);
    with hidden states of the same shape, there is a prefix of them."""
    text = embeds.reshape(-1, WIDTH)
    everywhere = torch.ones(len(text), len(text), dtype=torch.bool)
    for number in range(2):
        text, _ = layer(state, f"nar_layers.{number}", text, everywhere)
    table = state["embedding.weight"]
    x = torch.cat([table[SEPARATOR][None], text, table[[START, *made]]])
    block = 1 + len(text)
    prefix = [None] * 3 if hidden is None else prefix_keys(state, hidden)
    for number, before in enumerate(prefix):
        seen = who_sees_whom(block, 1 + len(made))
        x, _ = layer(state, f"ar_layers.{number}", x, seen, before)
    return F.linear(rms(x[block:], state["norm.weight"]), state["head.weight"], state["head.bias"])


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        0.3 * torch.randn(3, 5, 64, generator=generator),
        torch.tensor([5, 2, 3]),
        torch.randint(CODES, (3, 9), generator=generator),
        torch.tensor([4, 9, 6]),
    )


def plain_loss(decoder: SpeechDecoder, hidden: Tensor | None = None) -> Tensor:
    """Summed cross-entropy of each row alone; padding has no part in it."""
    embeds, text_lengths, codes, code_lengths = batch()
    rows = zip(text_lengths.tolist(), codes, code_lengths.tolist(), strict=True)
    losses = []
    for row, (words, said, number) in enumerate(rows):
        before = None if hidden is None else hidden[row, :words]
        logits = plain_logits(
            state_of(decoder), embeds[row, :words], said[:number].tolist(), before
        )
        targets = torch.cat([said[:number], torch.tensor([END])])
        losses.append(F.cross_entropy(logits, targets, reduction="sum"))
    return torch.stack(losses).sum()


def test_the_loss_is_the_published_one(decoder: SpeechDecoder) -> None:
    found = decoder(*batch())
    torch.testing.assert_close(found.loss_sum, plain_loss(decoder), atol=1e-5, rtol=1e-5)


def test_a_prefix_is_the_published_one() -> None:
    """Loss and greedy codes with keys and values of the hidden states before everything; without
    these states the decoder is the one without a prefix."""
    decoder = made_of(PREFIXED)
    hidden = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(5))
    found, without = decoder(*batch(), text_hidden=hidden), decoder(*batch())
    torch.testing.assert_close(found.loss_sum, plain_loss(decoder, hidden), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(without.loss_sum, plain_loss(decoder), atol=1e-5, rtol=1e-5)
    assert (found.loss_sum - without.loss_sum).abs() > 0.1
    embeds, lengths, _, _ = batch()
    together = decoder.generate_batch(embeds, lengths, text_hidden=hidden)
    for row, words in enumerate(lengths.tolist()):
        text, states = embeds[row, :words], hidden[row, :words]
        made = greedy(state_of(decoder), text, states)
        assert together[row].tolist() == made
        for use_cache in (True, False):
            alone = decoder.generate(
                text[None], text_hidden=states[None], top_k=1, use_cache=use_cache
            )
            assert list(alone) == made


def test_the_masks_are_the_published_ones(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, _, _ = batch()
    text = decoder._encode_text(embeds, text_lengths)
    block = text.hidden.shape[1]
    masks = _mask(text, 4)[:, 0]
    for mask, length in zip(masks, text.lengths.tolist(), strict=True):
        real = [*range(length), *range(block, block + 4)]
        assert torch.equal(mask[real][:, real], who_sees_whom(length, 4))
        assert not mask[real][:, length:block].any()


def greedy(state: State, text: Tensor, hidden: Tensor | None = None) -> list[int]:
    """The most likely codes of a text (n, 64), one after the other; of special ids only the end is
    ever said."""
    made: list[int] = []
    while len(made) < 24:
        scores = plain_logits(state, text, made, hidden)[-1]
        scores[[SEPARATOR, START, CODES + 3]] = -torch.inf
        chosen = int(scores.argmax())
        if chosen == END:
            break
        made.append(chosen)
    return made


def test_greedy_codes_are_the_published_ones(decoder: SpeechDecoder) -> None:
    for text in batch()[0]:
        assert list(decoder.generate(text[None], top_k=1)) == greedy(state_of(decoder), text)


def test_the_text_is_taken_as_it_is(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, codes, code_lengths = batch()
    losses = [
        decoder(scale * embeds, text_lengths, codes, code_lengths).loss_sum for scale in (1, 10)
    ]
    assert (losses[0] - losses[1]).abs() > 1e-3  # with text_norm it would be rounding
    assert not [name for name in state_of(decoder) if name.startswith("text_norm")]
