"""Word errors are counted as Levenshtein distance counts them, on spoken forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vita_train.evaluation.asr import recognise, word_error_rate


def distance(left: list[str], right: list[str]) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        row, last = [i], row
        for j, b in enumerate(right, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b)))
    return row[-1]


@pytest.mark.parametrize(
    ("truth", "text"), [("a b c", "a c"), ("a b", "a x b y"), ("a", ""), ("a b c d", "d c b a")]
)
def test_word_error_is_edit_distance_over_true_words(truth: str, text: str) -> None:
    assert word_error_rate([truth], [text]) == pytest.approx(
        distance(truth.split(), text.split()) / len(truth.split())
    )


def test_case_and_punctuation_do_not_count() -> None:
    assert word_error_rate(["Where is it, then?"], ["where is it then"]) == 0


def test_words_heard_in_silence_count() -> None:
    assert word_error_rate(["one two", ""], ["one two", "three"]) == 0.5
    assert math.isnan(word_error_rate([""], ["x"]))


def test_recognition_does_not_depend_on_the_batch(world: Any) -> None:
    index = world.corpus.index("asr", "test")
    clips = [index.sample(place).load_fbank() for place in range(len(index))]
    together = recognise(world.modules, world.corpus.ctc_vocab, clips, device=torch.device("cpu"))
    alone = [
        recognise(world.modules, world.corpus.ctc_vocab, [clip], device=torch.device("cpu"))[0]
        for clip in clips
    ]
    assert together == alone
