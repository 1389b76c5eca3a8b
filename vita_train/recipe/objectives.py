"""What each training objective reads, needs, packs and measures, said without torch.

The planner, the checks, preparation and evaluation go by these declarations and never by an objective's name. The
class that computes the loss is imported when a stage trains (`vita_train.training.objectives`). A package outside this
one adds an objective by calling `register_objective` from its plugin (`vita_train.plugins`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vita_train.plugins import Registry

Reads = Literal["tokens", "images", "audio", "codes"]

RECOGNISER = ("audio_encoder", "ctc_head")


@dataclass(frozen=True)
class Measure:
    """Held-out measures that one pass over a slice of a dataset takes together."""

    kind: str
    """What is run: a name that `vita_train.evaluation.measures` knows, or ``package.module:function`` of a plugin,
    called with the `EvalContext` and the samples, which returns values by name."""
    modules: tuple[str, ...]
    """Modules the measures depend on."""
    names: tuple[str, ...]
    """Last parts of the measures' names."""
    dataset: str = ""
    """First part of the measures' names; the dataset's own name when empty."""


@dataclass(frozen=True)
class ObjectiveSpec:
    """One training objective."""

    name: str
    implementation: str
    """``package.module:Class`` of the subclass of `vita_train.training.objectives.base.Objective`."""
    reads: Reads
    """What it learns from. Adapters (LoRA) and quantised weights need ``tokens``."""
    modules: tuple[str, ...]
    """Modules it cannot do without, trained or frozen."""
    optional: tuple[str, ...] = ()
    """Modules it uses where the stage trains them or its data need them."""
    packs: bool = False
    """Whether samples are packed into rows of ``batch.row_tokens``; otherwise a row of a batch is one sample. Only
    packed data can have a curriculum."""
    transcribes: bool = False
    """Whether it aligns transcripts with audio frames: its data give the recogniser's vocabulary, and a transcript
    with more symbols than the encoder has frames is rejected in preparation."""
    measures: tuple[Measure, ...] = ()
    """What it measures on the held-out slices of its data."""
    measures_replies: bool = False
    """Whether replies are measured too, as the task kind of each dataset says (`vita_train.evaluation.tasks`)."""


OBJECTIVES: Registry[ObjectiveSpec] = Registry("objective")


def register_objective(spec: ObjectiveSpec) -> None:
    """Add an objective.

    Raises:
        VitaError: its name is taken.
    """
    OBJECTIVES.add(spec.name, spec)


_PACKAGE = "vita_train.training.objectives"
register_objective(ObjectiveSpec(
    "next_token", f"{_PACKAGE}.next_token:NextTokenObjective", reads="tokens", modules=("llm",),
    optional=("vision", "projector", "audio_encoder", "audio_adapter", "audio_prompt", "state_head"), packs=True,
    measures_replies=True))
register_objective(ObjectiveSpec(
    "caption_words", f"{_PACKAGE}.caption_words:CaptionWordsObjective", reads="images", modules=("vision",)))
register_objective(ObjectiveSpec(
    "ctc", f"{_PACKAGE}.ctc:CtcObjective", reads="audio", modules=RECOGNISER, transcribes=True,
    measures=(Measure("recogniser", RECOGNISER, ("wer", "cer")),)))
register_objective(ObjectiveSpec(
    "codec", f"{_PACKAGE}.codec:CodecObjective", reads="audio", modules=("codec",), optional=("discriminators",),
    measures=(Measure("codec", ("codec",), ("mel_distance", "codes_used", "perplexity")),
              Measure("resynthesis", ("codec", *RECOGNISER), ("wer_original", "wer_resynthesis")))))
register_objective(ObjectiveSpec(
    "speech_tokens", f"{_PACKAGE}.speech_tokens:SpeechTokensObjective", reads="codes",
    modules=("llm", "codec", "speech_decoder"),
    measures=(Measure("speech", ("llm", "codec", "speech_decoder", *RECOGNISER), ("wer", "cer"), dataset="speech"),)))
