"""Names and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vita_train.evaluation.forgetting import is_share

#: The figures a reader asks for first, by sense, in the words of that question. Shown when the run measured them.
HEADLINES: dict[str, tuple[str, dict[str, str]]] = {
    "Reads": ("standin", {
        "textqa.test.accuracy": "typed questions answered",
        "instruct.test.accuracy": "instructions followed",
        "dialogue.test.accuracy": "turns of a dialogue right",
    }),
    "Sees": ("vision", {
        "vqa.test_seen.accuracy": "questions about pictures answered",
        "vqa.test_unseen.accuracy": "the same, on combinations never seen",
        "caption.test_seen.attributes": "of a picture's attributes named",
        "caption.test.attributes": "of a caption's words named",
        "caption.test.retrieval": "right caption picked among ten",
    }),
    "Hears": ("audio", {
        "speech_qa.test.accuracy": "spoken questions answered",
        "speech_qa.test_typed.accuracy": "the same questions typed",
        "asr.test_sentences.wer": "word error, new sentences",
        "asr.test_voices.wer": "word error, new voices",
        "asr.test.wer": "word error of the recogniser",
        "negative.test.state_mark": "knows when it is not spoken to",
    }),
    "Speaks": ("speech", {
        "speech.test.wer": "word error of what it says",
        "tts.test.wer_resynthesis": "word error after the codec",
        "tts.test.wer_original": "word error before it",
        "tts.test.codes_used": "codes in use",
    }),
}

#: The measure that says most about a stage without a gate; the first that was taken counts.
KEY_MEASURES: dict[str, tuple[str, ...]] = {
    "0.llm": ("textqa.test.accuracy",),
    "0.vision": ("dev.recall",),
    "1.1": ("caption.test_seen.attributes", "caption.test.retrieval", "caption.test.loss"),
    "1.2": ("caption.test_seen.attributes", "caption.test.retrieval", "caption.test.loss"),
    "1.3": ("vqa.test_seen.accuracy", "caption.test_seen.attributes"),
    "2.1a": ("asr.test_sentences.wer", "asr.test.wer"),
    "2.1b": ("asr.test_sentences.llm_wer", "asr.test.llm_wer", "asr.test_sentences.loss"),
    "2.2": ("speech_qa.test.accuracy",),
    "3.1": ("tts.test.wer_resynthesis", "tts.test.mel_distance"),
    "3.2": ("speech.test.wer",),
}

#: Ladder stages by what they add; names a colour of the style sheet.
GROUPS: dict[str, str] = {"0": "standin", "1": "vision", "2": "audio", "3": "speech"}

MODULE_WORDS: dict[str, str] = {
    "llm": "language model",
    "vision": "vision tower",
    "projector": "projector",
    "audio_encoder": "audio encoder",
    "ctc_head": "CTC head",
    "audio_adapter": "audio adapter",
    "audio_prompt": "audio prompt",
    "state_head": "state head",
    "codec": "codec",
    "discriminators": "discrimi\N{SOFT HYPHEN}nators",
    "speech_decoder": "speech decoder",
}


def group_of(stage: str) -> str:
    """Return the colour group of a stage."""
    return GROUPS.get(stage.split(".", 1)[0], "standin")


def key_measure(stage: str, gated: list[str], metrics: Mapping[str, float]) -> str | None:
    """Return the measure to show for a stage: its first gated one, else the one that says most."""
    for name in (*gated, *KEY_MEASURES.get(stage, ())):
        if name in metrics:
            return name
    return next(iter(sorted(metrics)), None)


def figure(measure: str, value: float | None) -> str:
    """Return a measure's value: shares in per cent, anything else with three digits."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if is_share(measure):
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count(value: float) -> str:
    """Return a number of parameters: 1.6 M, 304 M, 7.62 B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Return a time span: 48 s, 12 min 5 s, 3 h 20 min."""
    if seconds is None or math.isnan(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(number: float) -> str:
    """Return a size in bytes: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")
