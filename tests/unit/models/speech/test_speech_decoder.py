"""The speech decoder: masks, positions, loss and generation."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.errors import raises_code
from vita_train.errors import DataError
from vita_train.models.speech.decoder import SpeechDecoder
from vita_train.models.speech.sampling import penalise_repetition, sample
from vita_train.recipe.model import CodecSpec, LlmSpec, ModelSpec, SpeechDecoderSpec

SPEC = ModelSpec(
    llm=LlmSpec(hidden_size=64, num_heads=4),
    codec=CodecSpec(codebook_size=20),
    speech_decoder=SpeechDecoderSpec(
        width=32,
        nar_layers=1,
        ar_layers=2,
        num_heads=4,
        intermediate_size=64,
        max_positions=64,
        max_codes=40,
    ),
)


ALIGNED = SPEC.model_copy(
    update={"speech_decoder": SPEC.speech_decoder.model_copy(update={"alignment": "durations"})}
)


@pytest.fixture(params=[SPEC, ALIGNED], ids=["plain", "durations"])
def decoder(request: pytest.FixtureRequest) -> SpeechDecoder:
    torch.manual_seed(0)
    decoder = SpeechDecoder(request.param).eval()
    for parameter in decoder.parameters():  # larger weights, so that a wrong mask or position shows
        if parameter.ndim == 2:
            parameter.data.mul_(8)
    return decoder


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return text embeddings, their lengths, codes and their lengths for three rows of different
    lengths."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(3, 5, 64, generator=generator),
        torch.tensor([5, 2, 3]),
        torch.randint(20, (3, 9), generator=generator),
        torch.tensor([4, 9, 6]),
    )


def test_real_size_on_the_meta_device() -> None:
    with torch.device("meta"):
        decoder = SpeechDecoder(ModelSpec())
        embeds = torch.zeros(2, 7, 3584)
        text = decoder._encode_text(embeds, torch.tensor([7, 7]))
    assert text.hidden.shape == (2, 1 + 4 * 7, 896)  # each text token is four positions
    assert decoder.head.weight.shape == (1024 + 4, 896)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == pytest.approx(
        132e6, rel=0.01
    )


def test_loss_does_not_depend_on_padding(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, codes, code_lengths = batch()
    together = decoder(embeds, text_lengths, codes, code_lengths)
    alone = [
        decoder(
            embeds[i : i + 1, :n],
            text_lengths[i : i + 1],
            codes[i : i + 1, :t],
            code_lengths[i : i + 1],
        )
        for i, (n, t) in enumerate(zip(text_lengths.tolist(), code_lengths.tolist(), strict=True))
    ]
    torch.testing.assert_close(
        together.loss_sum, torch.stack([one.loss_sum for one in alone]).sum()
    )
    assert (
        together.count == sum(one.count for one in alone) == 4 + 9 + 6 + 3
    )  # every code and every end
    assert together.correct == sum(one.correct for one in alone)


def test_what_stands_in_the_padding_does_not_matter(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, codes, code_lengths = batch()
    clean = decoder(embeds, text_lengths, codes, code_lengths).loss_sum
    embeds[1, 2:], codes[0, 4:] = 1e3, 19
    torch.testing.assert_close(decoder(embeds, text_lengths, codes, code_lengths).loss_sum, clean)


def test_later_codes_do_not_reach_earlier_ones(decoder: SpeechDecoder) -> None:
    """The gradient of the loss of the first codes alone must not touch the embedding of a code used
    only later."""
    embeds, text_lengths, _, _ = batch()
    codes = torch.tensor([[1, 2, 3, 17]] * 3)
    short = decoder(embeds, text_lengths, codes, torch.tensor([2, 2, 2])).loss_sum
    changed = codes.clone()
    changed[:, 2:] = 5
    torch.testing.assert_close(
        decoder(embeds, text_lengths, changed, torch.tensor([2, 2, 2])).loss_sum, short
    )


def test_text_is_seen_both_ways(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, codes, _ = batch()
    for place in (0, 4):
        changed = embeds.clone()
        changed[0, place] += 1.0
        first = decoder(embeds[:1], text_lengths[:1], codes[:1, :1], torch.tensor([1])).loss_sum
        second = decoder(changed[:1], text_lengths[:1], codes[:1, :1], torch.tensor([1])).loss_sum
        assert not torch.isclose(first, second)


def test_cached_generation_equals_uncached(decoder: SpeechDecoder) -> None:
    embeds = batch()[0][:1]
    for top_k in (1, 4):
        runs = [
            list(
                decoder.generate(
                    embeds,
                    top_k=top_k,
                    generator=torch.Generator().manual_seed(1),
                    use_cache=cached,
                )
            )
            for cached in (True, False)
        ]
        assert runs[0] == runs[1]
        assert len(runs[0]) >= 3


def test_greedy_generation_is_what_teacher_forcing_calls_most_likely(
    decoder: SpeechDecoder,
) -> None:
    """Feeding generated codes back in, every one of them must be the top choice: training and use
    see the same."""
    embeds = batch()[0][:1]
    codes = torch.tensor([list(decoder.generate(embeds, top_k=1, max_codes=30))])
    loss = decoder(embeds, torch.tensor([5]), codes, torch.tensor([codes.shape[1]]))
    special = 1  # the end is the only target that was not generated
    assert loss.correct >= loss.count - special - _banned(decoder, embeds, codes)


def _banned(decoder: SpeechDecoder, embeds: torch.Tensor, codes: torch.Tensor) -> int:
    """Count the steps at which an id that may not be generated would have been the top choice."""
    text = decoder._encode_text(embeds, torch.tensor([5]))
    made = torch.cat([torch.tensor([[decoder.start]]), codes], dim=1)
    top = decoder.head(
        decoder.norm(decoder._uncached(text, made)[:, text.hidden.shape[1] :])
    ).argmax(2)
    return int((top >= decoder.num_codes).sum())


def test_batched_generation_equals_single(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, _, _ = batch()
    together = decoder.generate_batch(embeds, text_lengths, max_codes=20)
    for row, (codes, length) in enumerate(zip(together, text_lengths.tolist(), strict=True)):
        assert codes.tolist() == list(
            decoder.generate(embeds[row : row + 1, :length], top_k=1, max_codes=20)
        )


def test_special_ids_are_never_generated(decoder: SpeechDecoder) -> None:
    decoder.head.weight.data[:20] = 0
    with torch.no_grad():
        made = list(
            decoder.generate(batch()[0][:1], top_k=1000, generator=torch.Generator().manual_seed(0))
        )
    assert all(0 <= code < 20 for code in made)


def test_generation_streams(decoder: SpeechDecoder) -> None:
    """Codes come one by one: taking three does the work of three."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    decoder.head.register_forward_hook(count)
    stream = decoder.generate(batch()[0][:1], top_k=1)
    assert [next(stream) for _ in range(3)]
    assert calls == 3


def test_too_long_a_row_is_refused(decoder: SpeechDecoder) -> None:
    with raises_code(DataError, "VT-DATA-034", "64"):
        decoder(
            torch.zeros(1, 20, 64),
            torch.tensor([20]),
            torch.zeros(1, 40, dtype=torch.long),
            torch.tensor([40]),
        )


def test_generation_stops_at_the_last_position(decoder: SpeechDecoder) -> None:
    decoder.head.weight.data[decoder.end] = 0
    decoder.head.weight.data[:20] = decoder.head.weight.data[:20].abs()
    made = list(decoder.generate(torch.randn(1, 28, 64), top_k=1, max_codes=1000))
    assert len(made) <= 64 - 1 - 56


def test_learns_a_mapping_from_text_to_codes() -> None:
    """Each word stands for two codes; after a short training greedy generation spells new sentences
    right."""
    torch.manual_seed(0)
    words = torch.randn(6, 64)
    decoder = SpeechDecoder(SPEC)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)

    def sentences(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(6, (number, 3), generator=generator)
        return words[ids], torch.stack([2 * ids, 2 * ids + 1], dim=2).flatten(1)

    for _ in range(100):
        embeds, codes = sentences(16)
        loss = decoder(embeds, torch.full((16,), 3), codes, torch.full((16,), 6))
        optimizer.zero_grad()
        (loss.loss_sum / loss.count).backward()
        optimizer.step()
    embeds, codes = sentences(20)
    made = decoder.eval().generate_batch(embeds, torch.full((20,), 3))
    right = sum(row.tolist() == wanted.tolist() for row, wanted in zip(made, codes, strict=True))
    assert right >= 16


def test_repetition_penalty_lowers_both_signs_once() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    penalised = penalise_repetition(logits, torch.tensor([[0, 1, 0, 0]]), 2.0)
    torch.testing.assert_close(penalised, torch.tensor([[1.0, -4.0, 1.0]]))
    assert penalise_repetition(logits, torch.tensor([[0]]), 1.0) is logits


def test_sampling_stays_within_the_top() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.0, 4.5]]).expand(200, -1)
    drawn = sample(logits, top_k=2, temperature=5.0, generator=torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 3}


def test_scale_of_the_text_embeddings_does_not_matter(decoder: SpeechDecoder) -> None:
    embeds, text_lengths, codes, code_lengths = batch()
    losses = [
        decoder(scale * embeds, text_lengths, codes, code_lengths).loss_sum for scale in (1.0, 10.0)
    ]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)


def test_durations_of_words_are_learned_from_lengths_of_sentences() -> None:
    """Six words last 1 to 6 codes; only the number of codes of whole sentences is ever shown."""
    torch.manual_seed(0)
    words = torch.randn(6, 64)
    decoder = SpeechDecoder(ALIGNED)
    assert decoder.duration is not None
    optimizer = torch.optim.AdamW(decoder.duration.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 200)
    for _ in range(200):
        ids = torch.randint(6, (16, 4))
        total = decoder._encode_text(words[ids], torch.full((16,), 4)).total
        assert total is not None
        optimizer.zero_grad()
        (total - (ids + 1).sum(1)).abs().sum().backward()
        optimizer.step()
        schedule.step()
    text = decoder.eval()._encode_text(words[torch.tensor([[0, 5, 2, 3]])], torch.tensor([4]))
    assert text.total is not None
    assert text.total.item() == pytest.approx(1 + 6 + 3 + 4, abs=1.0)
    begins = text.positions[0, 1::2]  # every token is two positions wide
    torch.testing.assert_close(begins, torch.tensor([0.0, 1.0, 7.0, 10.0]), atol=1.0, rtol=0)
