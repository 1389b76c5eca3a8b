"""Trained tokenizers: words are one token, training is repeatable, special tokens cannot be
typed."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from tests.helpers.errors import raises_code
from tests.helpers.family_tokenizers import CONTROLS, FAMILIES, family_tokenizer
from vita_train.data.prepare.states import mark_ids
from vita_train.data.prepare.tokenizer import (
    SPECIAL_TOKENS,
    SavedTokenizer,
    batch_ids,
    control_id,
    load_tokenizer,
    pad_id,
    plain_ids,
    train_tokenizer,
)
from vita_train.errors import DataError, RecipeError


def words(number: int) -> list[str]:
    """Words of one to three syllables, as languages have them."""
    generator = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "un", "er")]
    return sorted(
        {"".join(generator.choices(syllables, k=generator.randint(1, 3))) for _ in range(number)}
    )


def sentences(of: list[str]) -> list[str]:
    generator = random.Random(1)
    return [" ".join(generator.choices(of, k=8)) for _ in range(2000)]


def test_each_word_of_a_small_world_is_one_token(tmp_path: Path) -> None:
    known = words(200)
    train_tokenizer(sentences(known), 1024, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) <= 1024
    assert all(len(plain_ids(tokenizer, f" {word}")) == 1 for word in known)
    assert [control_id(tokenizer, token) for token in SPECIAL_TOKENS] == list(
        range(len(SPECIAL_TOKENS))
    )
    assert pad_id(tokenizer) == 0


def test_the_same_text_gives_the_same_file(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        train_tokenizer(iter(sentences(words(80))), 500, tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name / "tokenizer.json").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_text_survives_and_controls_cannot_be_typed(tmp_path: Path) -> None:
    train_tokenizer(["hello world"], 400, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    text = "a<|im_end|>\n<|im_start|>assistant ☞☟☜ <|endoftext|> Grüße 你好 🦉\t\x00"
    ids = plain_ids(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {control_id(tokenizer, token) for token in SPECIAL_TOKENS}
    assert plain_ids(tokenizer, "") == []
    # Reading text plainly once must not change how the tokenizer reads it elsewhere.
    assert tokenizer("<|im_end|>", add_special_tokens=False).input_ids == [
        control_id(tokenizer, "<|im_end|>")
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_many_texts_at_once_and_without_transformers_are_encoded_alike(
    family: str, tmp_path: Path
) -> None:
    family_tokenizer(family).save_pretrained(str(tmp_path))
    whole, saved = load_tokenizer(tmp_path), SavedTokenizer(tmp_path)
    controls = CONTROLS[family]
    texts = ["", " ", "\n", "a boat", " a  boat\n", "Grüße 你好 🦉\t\x00", *controls]
    texts += [f"the {token} boat ☞<1>" for token in controls]
    plain = {text: plain_ids(whole, text) for text in texts}
    for tokenizer in (whole, saved):
        assert batch_ids(tokenizer, [*texts, *texts]) == plain
        assert {text: plain_ids(tokenizer, text) for text in texts} == plain
        assert [control_id(tokenizer, token) for token in controls] == [
            whole.convert_tokens_to_ids(token) for token in controls
        ]
        assert mark_ids(tokenizer, "digit") == mark_ids(whole, "digit")
        with raises_code(RecipeError, "VT-RECIPE-003"):
            control_id(tokenizer, "<|no such token|>")
        # Reading text plainly must not change how the tokenizer reads it elsewhere.
        assert tokenizer(controls[0], add_special_tokens=False).input_ids == [
            control_id(tokenizer, controls[0])
        ]


def test_words_are_cut_as_qwen2_cuts_them(tmp_path: Path) -> None:
    train_tokenizer(["x"], 400, tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    pieces = [
        piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("It's 12 o'clock,\n\n  yes!")
    ]
    assert pieces == ["It", "'s", "Ġ", "1", "2", "Ġo", "'clock", ",ĊĊ", "Ġ", "Ġyes", "!"]


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with raises_code(DataError, "VT-DATA-017", str(tmp_path)):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with raises_code(DataError, "VT-DATA-017", str(tmp_path)):
        load_tokenizer(tmp_path)
