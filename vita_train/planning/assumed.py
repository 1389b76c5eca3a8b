"""What stands in for prepared data where a recipe is planned before there are any."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.ctc_vocab import CtcVocab
from vita_train.recipe.schema import Recipe

#: Stands in for the recogniser's units, which are known only after the data is prepared.
CTC_VOCAB_SIZE = 1000
#: Stands in for the words that captions ask for.
_WORDS = 1000
#: As many captions with each word as any objective asks for.
_CAPTIONS = 100


@dataclass(frozen=True)
class _Index:
    """One dataset with a record that has whatever the stage's modules read."""

    tiles: np.ndarray
    frames: np.ndarray
    settings: Any
    words: tuple[str, ...] = field(repr=False)

    def column(self, name: str) -> list[list[str]]:
        """Return captions that hold all words."""
        return [[" ".join(self.words)]] * _CAPTIONS


class _Assumed:
    """Answers what objectives ask of a corpus while they are built."""

    def __init__(self, recipe: Recipe, modules: Collection[str], words: tuple[str, ...]) -> None:
        self.tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=0)
        units = (f"unit{number}" for number in range(CTC_VOCAB_SIZE - 2))
        self.ctc_vocab = CtcVocab.of_units(units, recipe.model.ctc_head.vocab)
        shown = int(("vision" in modules and "llm" in modules) or "projector" in modules)
        heard = int("audio_adapter" in modules)
        self._index = _Index(
            np.array([shown]),
            np.array([heard]),
            SimpleNamespace(adapter=recipe.model.audio_adapter),
            words,
        )

    def index(self, name: str, split: str) -> _Index:
        """Return the same for every dataset and split."""
        return self._index


def assumed_corpus(recipe: Recipe, stage: str) -> Corpus:
    """Return what an objective of a stage can be built with, before there are data: a recogniser of
    `CTC_VOCAB_SIZE` units, and records that reach every module of the stage."""
    from vita_train.recipe.selection import modules_needed

    options = recipe.stages[stage].options
    words = [f"word{number}" for number in range(_WORDS)]
    words += str(options.get("colour_words", "")).split()
    return cast(Corpus, _Assumed(recipe, modules_needed(recipe, stage), tuple(words)))
