"""Names and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import cycle

from vita_train.evaluation.forgetting import is_share
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.stage import StageSpec

#: The figures a reader asks for first, by sense, in the words of that question. Shown when the run
#: measured them.
HEADLINES: dict[str, tuple[str, dict[str, str]]] = {
    "Reads": (
        "standin",
        {
            "textqa.test.accuracy": "typed questions answered",
            "instruct.test.accuracy": "instructions followed",
            "dialogue.test.accuracy": "turns of a dialogue right",
        },
    ),
    "Sees": (
        "vision",
        {
            "vqa.test_seen.accuracy": "questions about images answered",
            "vqa.test_unseen.accuracy": "the same, on combinations never seen",
            "caption.test_seen.attributes": "of an image's attributes named",
            "caption.test.attributes": "of a caption's words named",
            "caption.test.retrieval": "right caption picked among ten",
        },
    ),
    "Hears": (
        "audio",
        {
            "speech_qa.test.accuracy": "spoken questions answered",
            "speech_qa.test_typed.accuracy": "the same questions typed",
            "asr.test_sentences.wer": "word error, new sentences",
            "asr.test_voices.wer": "word error, new voices",
            "asr.test.wer": "word error of the recogniser",
            "negative.test.state_mark": "knows when it is not spoken to",
        },
    ),
    "Speaks": (
        "speech",
        {
            "speech.test.wer": "word error of what it says",
            "tts.test.wer_resynthesis": "word error after the codec",
            "tts.test.wer_original": "word error before it",
            "tts.test.codes_used": "codes in use",
        },
    ),
}

#: The same for datasets of other names, by the kind of their task; a colour as above.
_SENSES: dict[str, str] = {
    "caption": "Sees",
    "asr": "Hears",
    "speech_qa": "Hears",
    "negative": "Hears",
    "tts": "Speaks",
}
_FIGURES: dict[str, str] = {
    "accuracy": "answered right",
    "attributes": "words of captions named",
    "retrieval": "right caption among ten",
    "wer": "word error",
    "llm_wer": "word error of the language model",
    "state_mark": "knows when it is not spoken to",
}

#: Last parts of measures' names, those that say most about a stage without a gate first.
_TELLING: tuple[str, ...] = (
    "accuracy",
    "attributes",
    "wer",
    "llm_wer",
    "wer_resynthesis",
    "mel_distance",
    "recall",
    "retrieval",
    "state_mark",
    "loss",
)
#: Colours of the style sheet by group of stages; other groups take what the recipe's own leave, in
#: order.
_COLOURS: dict[str, str] = {"base": "standin", "see": "vision", "hear": "audio", "speak": "speech"}

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

#: Of weights from outside the run.
DEFAULT_COLOUR = "standin"


def headlines(
    metrics: Mapping[str, float], tasks: Mapping[str, str]
) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the figures to show first: sense to its colour and, by measure, what it says.

    Args:
        metrics: what the run measured.
        tasks: dataset to the kind of its task.
    """
    found = {
        sense: (colour, {name: text for name, text in listed.items() if name in metrics})
        for sense, (colour, listed) in HEADLINES.items()
    }
    known = {name for _, listed in HEADLINES.values() for name in listed}
    for name in metrics:
        dataset, _, rest = name.partition(".")
        split, _, last = rest.rpartition(".")
        if name not in known and dataset in tasks and split.startswith("test") and last in _FIGURES:
            slice_ = (
                dataset
                if split == "test"
                else f"{dataset}, {split.removeprefix('test').strip('_')}"
            )
            found[_SENSES.get(tasks[dataset], "Reads")][1][name] = f"{slice_}: {_FIGURES[last]}"
    return {sense: figures for sense, figures in found.items() if figures[1]}


def colours(groups: Iterable[str]) -> dict[str, str]:
    """Return the colour of each group of a recipe's stages, those with names of their own
    included."""
    named = dict.fromkeys(groups)
    free = [colour for group, colour in _COLOURS.items() if group not in named] or list(
        _COLOURS.values()
    )
    own = cycle(free)
    return {group: _COLOURS.get(group) or next(own) for group in named}


def key_measure(spec: StageSpec, metrics: Mapping[str, float]) -> str | None:
    """Return the measure to show for a stage: its first gated one, else the most telling of its own
    data."""
    gated = next((name for name in spec.gates if name in metrics), None)
    if gated is not None or not metrics:
        return gated
    own = [
        *spec.data,
        *(measure.dataset for measure in OBJECTIVES[spec.objective].measures if measure.dataset),
    ]

    def rank(name: str) -> tuple[int, int, str]:
        dataset, last = name.partition(".")[0], name.rpartition(".")[2]
        return (
            own.index(dataset) if dataset in own else len(own),
            _TELLING.index(last) if last in _TELLING else len(_TELLING),
            name,
        )

    return min(metrics, key=rank)


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
