"""Task kinds: what the records of a dataset ask for, and with that, how replies to them are
measured.

A registry file names the kind of each dataset; evaluation, preparation and the report go by it and
never by a dataset's name. A package outside this one adds a kind by calling `register_task_kind`
from its plugin (`vita_train.plugins`).
"""

from __future__ import annotations

from dataclasses import dataclass

from vita_train.plugins import Registry
from vita_train.recipe.objectives import Measure


@dataclass(frozen=True)
class TaskKind:
    """One kind of task."""

    name: str
    about: str
    """What its records hold, in a few words."""
    exact: bool = True
    """Whether a reply is right only as it stands: replies are then measured by the share of exact
    ones."""
    measures: tuple[Measure, ...] = ()
    """Further measures of the model's own replies. The modules that they depend on are those that
    the media of the slice pass through; a measure names only those that come on top."""


TASK_KINDS: Registry[TaskKind] = Registry("task kind")


def register_task_kind(kind: TaskKind) -> None:
    """Add a task kind.

    Raises:
        VitaError: its name is taken.
    """
    TASK_KINDS.add(kind.name, kind)


_LLM_WER = (Measure("transcripts", (), ("llm_wer", "llm_cer")),)
for _kind in (
    TaskKind(
        "caption",
        "a description of an image or a video",
        measures=(
            Measure("captions", (), ("attributes",)),
            Measure("retrieval", (), ("retrieval", "loss_blind")),
        ),
    ),
    TaskKind("qa", "an answer to a question about text, images or a video"),
    TaskKind("instruct", "what a written instruction asks for"),
    TaskKind("dialogue", "the turns of a conversation"),
    TaskKind("recall", "what was said before, repeated"),
    TaskKind("interleaved", "documents of text and images in their order", exact=False),
    TaskKind("asr", "the transcript of what is heard", exact=False, measures=_LLM_WER),
    TaskKind("tts", "a text and how it sounds", exact=False, measures=_LLM_WER),
    TaskKind("speech_qa", "an answer to a spoken question"),
    TaskKind("negative", "audio that is not meant for the assistant"),
):
    register_task_kind(_kind)
