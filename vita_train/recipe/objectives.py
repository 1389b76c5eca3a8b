"""What each training objective reads, needs, packs and measures, said without torch.

The planner, the checks, preparation and evaluation go by these declarations and never by an
objective's name. The class that computes the loss is imported when a stage trains
(`vita_train.training.objectives`). A package outside this one adds an objective by calling
`register_objective` from its plugin (`vita_train.plugins`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from vita_train.plugins import Registry

Reads = Literal["tokens", "images", "audio", "codes"]

RECOGNISER = ("audio_encoder", "ctc_head")


@dataclass(frozen=True)
class Measure:
    """Held-out measures that one pass over a slice of a dataset takes together."""

    kind: str
    """What is run: a name that `vita_train.evaluation.measures` knows, or
    ``package.module:function`` of a plugin, called with the `EvalContext` and the samples, which
    returns values by name."""
    modules: tuple[str, ...]
    """Modules the measures depend on."""
    names: tuple[str, ...]
    """Last parts of the measures' names."""
    dataset: str = ""
    """First part of the measures' names; the dataset's own name when empty."""


@dataclass(frozen=True)
class Between:
    """Bounds of an option that is a number, both included."""

    low: float
    high: float
    whole: bool = False
    """Whether it must be a whole number."""


#: What an option may be: true or false, any text, one of some texts, or a number within bounds.
OptionKind = type[bool] | type[str] | tuple[str, ...] | Between


def check_options(options: Mapping[str, Any], declared: Mapping[str, OptionKind]) -> None:
    """Check a stage's options against what its objective declares.

    Raises:
        ValueError: the first that is unknown, of another type or out of its bounds.
    """
    for name, value in options.items():
        if name not in declared:
            near = get_close_matches(name, declared, n=1)
            raise ValueError(
                f"there is no option {name!r}; "
                + (
                    f"did you mean {near[0]}?"
                    if near
                    else f"there are {', '.join(declared) or 'none'}"
                )
            )
        kind = declared[name]
        if isinstance(kind, Between):
            # bool is an int to Python, and true is no number to whoever wrote it
            number = isinstance(value, int if kind.whole else int | float) and not isinstance(
                value, bool
            )
            if not number or not kind.low <= value <= kind.high:
                raise ValueError(
                    f"{name} is a {'whole ' if kind.whole else ''}number from {kind.low:g} to "
                    f"{kind.high:g}, not {value!r}"
                )
        elif isinstance(kind, tuple):
            if value not in kind:
                raise ValueError(f"{name} is one of {', '.join(kind)}, not {value!r}")
        elif not isinstance(value, kind):
            raise ValueError(
                f"{name} is {'true or false' if kind is bool else 'a text'}, not {value!r}"
            )


@dataclass(frozen=True)
class ObjectiveSpec:
    """One training objective."""

    name: str
    implementation: str
    """``package.module:Class`` of the subclass of
    `vita_train.training.objectives.base.Objective`."""
    reads: Reads
    """What it learns from. Adapters (LoRA) and quantised weights need ``tokens``."""
    modules: tuple[str, ...]
    """Modules it cannot do without, trained or frozen."""
    optional: tuple[str, ...] = ()
    """Modules it uses where the stage trains them or its data need them."""
    packs: bool = False
    """Whether samples are packed into rows of ``batch.seq_len``; otherwise a row of a batch is one
    sample. Only packed data can have a curriculum."""
    transcribes: bool = False
    """Whether it aligns transcripts with audio frames: its data give the recogniser's vocabulary,
    and a transcript with more symbols than the encoder has frames is rejected in preparation."""
    options: Mapping[str, OptionKind] | None = None
    """Settings that a stage may give it under ``options``, with what each may be; None: its class
    alone knows."""
    measures: tuple[Measure, ...] = ()
    """What it measures on the held-out slices of its data."""
    measures_replies: bool = False
    """Whether replies are measured too, as the task kind of each dataset says
    (`vita_train.evaluation.tasks`)."""


OBJECTIVES: Registry[ObjectiveSpec] = Registry("objective")


def register_objective(spec: ObjectiveSpec) -> None:
    """Add an objective.

    Raises:
        VitaError: its name is taken.
    """
    OBJECTIVES.add(spec.name, spec)


_PACKAGE = "vita_train.training.objectives"
register_objective(
    ObjectiveSpec(
        "next_token",
        f"{_PACKAGE}.next_token:NextTokenObjective",
        reads="tokens",
        modules=("llm",),
        optional=(
            "vision",
            "projector",
            "audio_encoder",
            "audio_adapter",
            "audio_prompt",
            "state_head",
        ),
        packs=True,
        options={
            "chunk": Between(0, 2**24, whole=True),
            "augment": bool,
            "state_weight": Between(0, 1000),
        },
        measures_replies=True,
    )
)
register_objective(
    ObjectiveSpec(
        "caption_words",
        f"{_PACKAGE}.caption_words:CaptionWordsObjective",
        reads="images",
        modules=("vision",),
        options={
            "min_count": Between(1, 10**9, whole=True),
            "permute_colours": Between(0, 1),
            "colour_words": str,
        },
    )
)
register_objective(
    ObjectiveSpec(
        "ctc",
        f"{_PACKAGE}.ctc:CtcObjective",
        reads="audio",
        modules=RECOGNISER,
        transcribes=True,
        options={
            "augment": bool,
            "gain": Between(0, 100),
            "tilt": Between(0, 100),
            "noise": Between(0, 1),
            "frequency_masks": Between(0, 1000, whole=True),
            "frequency_width": Between(0, 1000, whole=True),
            "time_masks": Between(0, 1000, whole=True),
            "time_share": Between(0, 1),
            "cmvn_samples": Between(1, 10**9, whole=True),
        },
        measures=(Measure("recogniser", RECOGNISER, ("wer", "cer")),),
    )
)
register_objective(
    ObjectiveSpec(
        "codec",
        f"{_PACKAGE}.codec:CodecObjective",
        reads="audio",
        modules=("codec",),
        optional=("discriminators",),
        options={
            "adversarial": Between(0, 1000),
            "mel": str,
            "quantizer": Between(0, 1000),
            "consistency": Between(0, 1000),
        },
        measures=(
            Measure("codec", ("codec",), ("mel_distance", "codes_used", "perplexity")),
            Measure("resynthesis", ("codec", *RECOGNISER), ("wer_original", "wer_resynthesis")),
        ),
    )
)
register_objective(
    ObjectiveSpec(
        "speech_tokens",
        f"{_PACKAGE}.speech_tokens:SpeechTokensObjective",
        reads="codes",
        modules=("llm", "codec", "speech_decoder"),
        options={
            "label_smoothing": Between(0, 0.99),
            "code_noise": Between(0, 1),
            "prefix": ("joint", "alone", "off"),
        },
        measures=(
            Measure(
                "speech",
                ("llm", "codec", "speech_decoder", *RECOGNISER),
                ("wer", "cer"),
                dataset="speech",
            ),
        ),
    )
)
