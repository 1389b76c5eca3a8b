"""Objectives by the name a recipe gives them. Each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from vita_train.training.objectives.base import Objective

_CLASSES: dict[str, str] = {
    "next_token": "NextTokenObjective",
    "caption_words": "CaptionWordsObjective",
    "ctc": "CtcObjective",
    "codec": "CodecObjective",
    "speech_tokens": "SpeechTokensObjective",
}


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective: file ``objectives/<name>.py``, class in the table above."""
    module = import_module(f"vita_train.training.objectives.{name}")
    return cast("type[Objective]", getattr(module, _CLASSES[name]))
