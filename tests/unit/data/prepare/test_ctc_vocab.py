"""Transcripts in any script: one spelling for what is written alike, and rates that mean
something."""

from __future__ import annotations

import unicodedata

import pytest

from vita_train.data.prepare.ctc_vocab import CtcVocab, spoken_form, spoken_words
from vita_train.evaluation.asr import character_error_rate, error_rates, word_error_rate


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Isn’t it? Yes, 3 of them.", "isn't it yes 3 of them"),
        ("हिन्दी।", "हिन्दी"),
        ("வணக்கம்!", "வணக்கம்"),
        ("السَّلَامُ عليكم", "السَّلَامُ عليكم"),
        ("Việt Nam", "việt nam"),
        ("ΣΑΣ", "σας"),
        ("İSTANBUL", "istanbul"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("کتاب\u200c ", "کتاب"),
        ("ന്\u200d", "ന്\u200d"),
        ("co\u00adoperate", "cooperate"),
        ("\u200fשלום\u200e", "שלום"),
        ("👩\u200d👧 ok ❤\ufe0f", "ok"),
        ("今天 天气 很好。", "今天天气很好"),
        ("สวัสดี\u200bครับ", "สวัสดีครับ"),
        ("ラーメン が 好き", "ラーメンが好き"),
        ("우리 집", "우리 집"),
        ("мо\u02bcє П\u2019ЯТЬ", "мо'є п'ять"),
        ("snake_case", "snake case"),
    ],
)
def test_spoken_forms(text: str, form: str) -> None:
    for normal in ("NFC", "NFD"):
        assert spoken_form(unicodedata.normalize(normal, text)) == unicodedata.normalize(
            "NFC", form
        )
    assert spoken_form(spoken_form(text)) == spoken_form(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Good day", ["good", "day"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("用iPhone打电话", ["用", "iphone", "打", "电", "话"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("안녕 세상", ["안녕", "세상"]),
    ],
)
def test_words_and_units(text: str, words: list[str]) -> None:
    assert spoken_words(text) == words
    units = CtcVocab.from_texts([text], "word")
    assert set(units.names[2:]) == set(words)
    for kind in ("word", "char"):
        units = CtcVocab.from_texts([text], kind)
        assert units.decode(units.encode(text)) == spoken_form(text)


def test_rates_of_scripts_without_spaces_count_characters() -> None:
    truth = ["今天天气很好"]
    for rate in (word_error_rate, character_error_rate):
        assert rate(truth, ["今天天气真好"]) == pytest.approx(1 / 6)
        assert rate(truth, ["我不知道"]) == 1
        assert rate(truth, ["今天 天气 很好"]) == 0
    assert word_error_rate(["打开 the window"], ["打开 a window"]) == pytest.approx(1 / 4)
    assert error_rates(["the cat"], ["the cut"], "llm_") == {
        "llm_wer": pytest.approx(1 / 2),
        "llm_cer": pytest.approx(1 / 7),
    }
    decomposed = unicodedata.normalize("NFD", "déjà vu")
    assert error_rates([decomposed], ["déjà vu"]) == {"wer": 0, "cer": 0}
    assert character_error_rate(["ab", ""], ["ab", "x"]) == pytest.approx(1 / 2)
