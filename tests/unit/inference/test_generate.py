from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.helpers.errors import raises_code
from tests.helpers.omni_batches import document
from vita_train.errors import DataError
from vita_train.inference.generate import answer, draw, generate, generate_ids, stream_text
from vita_train.models.inputs import Prompt
from vita_train.models.omni import Omni


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes 0..95 of the byte-level alphabet and one special token: the small model's 97 rows."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:96]
    bpe = Tokenizer(
        models.BPE(
            vocab={letter: k for k, letter in enumerate(alphabet)} | {"<end>": 96}, merges=[]
        )
    )
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>")


@pytest.fixture
def lively(omni: Omni) -> Omni:
    """Weights large enough that replies differ and ties do not decide."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in omni.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return omni


def prompts() -> list[Prompt]:
    docs = [
        document(1, 12, tiles=2),
        document(2, 9),
        document(3, 15, frames=60),
        document(4, 10, tiles=1, frames=33),
    ]
    return [
        Prompt(doc.input_ids[0], doc.tiles, () if doc.fbank is None else (doc.fbank[0],), f"p{k}")
        for k, doc in enumerate(docs)
    ]


def replies(omni: Omni, chosen: list[Prompt], stop_ids: tuple[int, ...] = ()) -> list[list[int]]:
    made = [[] for _ in chosen]
    for ids in generate_ids(omni, chosen, stop_ids=stop_ids, max_new_tokens=12):
        for reply, token in zip(made, ids, strict=True):
            reply.append(token)
    return made


def test_a_batch_of_mixed_modalities_answers_as_each_alone(lively: Omni) -> None:
    together = replies(lively, prompts())
    assert together == [replies(lively, [prompt])[0] for prompt in prompts()]
    assert len({tuple(reply) for reply in together}) == 4


def test_the_cache_gives_what_reading_all_again_gives(lively: Omni) -> None:
    for doc, prompt in zip(
        [document(1, 12, tiles=2), document(3, 15, frames=60)],
        [prompts()[0], prompts()[2]],
        strict=True,
    ):
        (cached,) = replies(lively, [prompt])
        for token in cached:
            logits = lively(doc)[0, -1] @ lively.head_weight.T
            assert int(logits.argmax()) == token
            doc.input_ids = torch.cat((doc.input_ids, torch.tensor([[token]])), 1)
            doc.position_ids = torch.arange(doc.input_ids.shape[1])[None]
            doc.document_ids = torch.ones_like(doc.input_ids)


def test_replies_end_before_a_stop_token(lively: Omni) -> None:
    whole = replies(lively, prompts())
    stop = whole[0][3]
    for cut, full in zip(replies(lively, prompts(), (stop,)), whole, strict=True):
        expected = full[: full.index(stop)] if stop in full else full
        assert [token for token in cut if token >= 0] == expected


def test_streamed_text_equals_the_batched_answer(
    lively: Omni, tokenizer: PreTrainedTokenizerFast
) -> None:
    answers = answer(lively, tokenizer, prompts(), stop_ids={96}, max_new_tokens=12, batch_size=3)
    for prompt, expected in zip(prompts(), answers, strict=True):
        parts = list(generate(lively, tokenizer, prompt, stop_ids={96}, max_new_tokens=12))
        assert "".join(parts) == expected
        assert len(parts) > 1


def test_characters_of_several_tokens_are_never_cut() -> None:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [], trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    ids = tokenizer("a☞é好!")["input_ids"]
    assert len(ids) > 5
    assert list(stream_text(tokenizer, ids)) == ["a", "☞", "é", "好", "!"]


def test_sampling_is_seeded_and_keeps_to_the_nucleus() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(2000, 4)

    def counts(top_p: float, temperature: float = 1.0) -> Counter:
        return Counter(draw(logits, temperature, top_p, torch.Generator().manual_seed(0)).tolist())

    assert counts(0.7) == counts(0.7)
    assert set(counts(0.7)) == {0, 1}
    assert set(counts(0.1)) == set(counts(0.0)) == {0}
    assert counts(1.0)[3] == pytest.approx(100, abs=40)
    assert counts(1.0, 0.5)[0] > counts(1.0)[0]


def test_modes_are_given_back(lively: Omni) -> None:
    lively.train()
    lively.vision.eval()
    replies(lively, prompts()[:1])
    assert lively.llm.training
    assert not lively.vision.training
    assert torch.is_grad_enabled()


def test_a_prompt_that_fills_the_context_is_refused(lively: Omni) -> None:
    with raises_code(DataError, "VT-DATA-032", "256"):
        list(
            generate_ids(
                lively,
                [Prompt(torch.zeros(256, dtype=torch.long), name="long")],
                stop_ids=(),
                max_new_tokens=3,
            )
        )
    nearly = Prompt(torch.zeros(254, dtype=torch.long))
    assert len(list(generate_ids(lively, [nearly], stop_ids=(), max_new_tokens=9))) == 2
