"""Codes to audio in pieces, and text to audio."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vita_train.inference.speech import (
    Speaker,
    clauses,
    completed_clauses,
    spoken_text,
    stream_decode,
)
from vita_train.models.codec import Codec, build_codec
from vita_train.models.language.decoder import build_llm
from vita_train.models.speech.decoder import SpeechDecoder
from vita_train.recipe.model import CodecSpec, LlmSpec, ModelSpec, SpeechDecoderSpec

CODEC = CodecSpec(
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
)
VOICE = torch.tensor([3, 4])


@pytest.fixture
def codec() -> Codec:
    torch.manual_seed(0)
    return build_codec(CODEC).eval()


def codes(number: int) -> list[int]:
    return torch.randint(32, (number,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("number", [1, 19, 20, 30, 31, 70, 95, 137])
def test_streamed_equals_offline(codec: Codec, number: int) -> None:
    """Ten codes of context cover this codec's reach, so that also the cross-faded parts agree."""
    pieces = list(stream_decode(codec, codes(number), VOICE))
    whole = codec.decode(torch.tensor([codes(number)]), VOICE[None])[0].numpy()
    assert sum(map(len, pieces)) == number * 160
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4 * np.abs(whole).max())


def test_short_context_differs_only_near_the_seams(codec: Codec) -> None:
    pieces = list(stream_decode(codec, codes(70), VOICE, chunk=30, first_chunk=30, context=3))
    whole = codec.decode(torch.tensor([codes(70)]), VOICE[None])[0].numpy()
    differs = (
        np.abs(np.concatenate(pieces) - whole).reshape(70, 160).max(1) > 1e-4 * np.abs(whole).max()
    )
    assert differs.any()
    assert set(np.flatnonzero(differs)) <= {*range(22, 38), *range(52, 68)}


def test_no_codes_no_sound(codec: Codec) -> None:
    assert list(stream_decode(codec, [], VOICE)) == []


def test_sound_starts_before_all_codes_are_made(codec: Codec) -> None:
    taken = 0

    def source() -> object:
        nonlocal taken
        for code in codes(200):
            taken += 1
            yield code

    stream = stream_decode(codec, source(), VOICE, first_chunk=20, context=10)
    assert len(next(stream)) == 20 * 160
    assert taken == 30


def test_clauses_are_cut_at_stops_and_never_short() -> None:
    assert clauses("Yes, there are TWO red stars. I see them!") == [
        "yes, there are two red stars.",
        "i see them!",
    ]
    assert clauses("☞ It is blue. Ok") == ["it is blue. ok"]
    assert clauses("no") == ["no"]
    assert clauses(" ... ") == []
    assert clauses("") == []
    assert spoken_text("☜ A  <b>red</b> star_") == "a b red b star"


@pytest.mark.parametrize("prefix", [False, True])
def test_speak_yields_sound_for_every_clause(codec: Codec, prefix: bool) -> None:
    spec = ModelSpec(
        llm=LlmSpec(
            vocab_size=50,
            hidden_size=32,
            num_layers=1,
            num_heads=4,
            num_kv_heads=4,
            intermediate_size=32,
            max_positions=64,
        ),
        codec=CODEC,
        speech_decoder=SpeechDecoderSpec(
            width=32,
            nar_layers=1,
            ar_layers=1,
            num_heads=4,
            intermediate_size=64,
            max_positions=64,
            max_codes=12,
            prefix=prefix,
        ),
    )
    torch.manual_seed(0)
    decoder = SpeechDecoder(spec).eval()
    if decoder.prefix is not None:
        decoder.prefix.trained.fill_(True)
    decoder.voice.copy_(VOICE)
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [ord(letter) % 50 for letter in text]

    speaker = Speaker(encode=encode, llm=build_llm(spec.llm), decoder=decoder, codec=codec, top_k=1)
    pieces = list(speaker.speak("One red star. Two blue hearts!"))
    assert asked == [" one red star", " two blue hearts"]
    assert pieces
    assert all(piece.dtype == np.float32 and len(piece) % 160 == 0 for piece in pieces)
    # The same while the text is still being written: the first clause is heard before the second is
    # complete.
    events = list(speaker.speak_along(iter(["One red", " star. Two", " blue", " hearts!"])))
    heard = [index for index, event in enumerate(events) if not isinstance(event, str)]
    written = [index for index, event in enumerate(events) if isinstance(event, str)]
    assert heard[0] < written[-1]
    assert [events[index] for index in written] == ["One red", " star. Two", " blue", " hearts!"]
    np.testing.assert_array_equal(
        np.concatenate([events[index] for index in heard]), np.concatenate(pieces)
    )


@given(st.lists(st.text(alphabet="ab Σσ.,!?。1'☞", max_size=9), max_size=12))
def test_clauses_of_a_text_that_is_being_written_are_those_of_the_whole(pieces: list[str]) -> None:
    given_out = list(completed_clauses(pieces))
    assert "".join(piece for piece, _ in given_out) == "".join(pieces)
    assert [clause for _, complete in given_out for clause in complete] == clauses("".join(pieces))


def test_a_clause_is_given_out_as_soon_as_it_cannot_change() -> None:
    given_out = list(completed_clauses(["yes, there ", "are stars.", " and", " two hearts"]))
    assert [complete for _, complete in given_out] == [
        [],
        [],
        [],
        ["yes, there are stars."],
        ["and two hearts"],
    ]
