"""The run's tokenizer and recogniser units, made from training text alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vita_train.data.prepare.ctc_vocab import CtcVocab
from vita_train.data.prepare.prompt import control_texts
from vita_train.data.prepare.states import mark_ids
from vita_train.data.prepare.tokenizer import (
    Tokenizer,
    check_untypable,
    load_tokenizer,
    train_tokenizer,
)
from vita_train.data.sources.reading import Row
from vita_train.data.sources.records import literal
from vita_train.data.sources.registry import Registry
from vita_train.data.sources.source import open_split
from vita_train.data.sources.splitting import TRAIN
from vita_train.data.templates import load_template
from vita_train.errors import RecipeError
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe

#: End of a text, where a template has no control token of its own.
_END = "<|endoftext|>"

__all__ = ["TRAIN", "CtcVocabBuilder", "make_tokenizer"]


def make_tokenizer(recipe: Recipe, registry: Registry, path: Path, out: Path) -> Tokenizer:
    """Load the recipe's tokenizer, or train one on the train splits, and save it to ``out``.

    Raises:
        DataError: it cannot be loaded, or a record file cannot be read.
        RecipeError: it does not fit the model's vocabulary, lacks a control token or state mark, or
            makes a control token of typed text.
    """
    template = load_template(recipe.data.template)
    if recipe.tokenizer.source is None:
        tokenizer = train_tokenizer(
            _texts(recipe, registry, path),
            recipe.tokenizer.vocab_size,
            out,
            controls=template.control_tokens or (_END,),
            end=template.layout.gpt.end or _END,
        )
    else:
        tokenizer = load_tokenizer(recipe.tokenizer.source)
        tokenizer.save_pretrained(str(out))
    if len(tokenizer) > recipe.model.llm.vocab_size:
        raise RecipeError(
            f"tokenizer has {len(tokenizer)} entries, the model's table has "
            f"{recipe.model.llm.vocab_size} rows",
            code="VT-RECIPE-005",
            where="model.llm.vocab_size",
            remedy=f"set it to at least {len(tokenizer)}",
        )
    check_untypable(tokenizer, template.control_tokens)
    mark_ids(tokenizer, recipe.data.state_mode)
    return tokenizer


class CtcVocabBuilder:
    """Collects the units of the training transcripts while the records pass: last answers of the
    datasets that a recogniser trains on.

    Without such a stage, of the datasets whose task is asr; without those, none but blank and
    unknown.
    """

    def __init__(self, recipe: Recipe, registry: Registry) -> None:
        self._kind = recipe.model.ctc_head.vocab
        self._units: set[str] = set()
        self._datasets = {
            name
            for spec in recipe.stages.values()
            if OBJECTIVES[spec.objective].transcribes
            for name in spec.data
        } or {name for name, task in registry.tasks.items() if task == "asr"}

    def reads(self, dataset: str, split: str) -> bool:
        """Say whether the transcripts of a split count."""
        return split == TRAIN and dataset in self._datasets

    def add(self, units: Iterable[str]) -> None:
        """Collect units of records that can be read, whatever becomes of them."""
        self._units.update(units)

    def build(self) -> CtcVocab:
        """Return the inventory."""
        return CtcVocab.of_units(self._units, self._kind)


def _train_rows(registry: Registry, path: Path, names: list[str]) -> Iterator[Row]:
    """Yield the readable rows of the train splits of datasets; rejects are counted elsewhere."""
    for name in names:
        if TRAIN in registry.datasets[name].splits:
            source = open_split(path, registry, name, TRAIN)
            yield from (row for row in source.rows() if isinstance(row, Row))


def _texts(recipe: Recipe, registry: Registry, path: Path) -> Iterator[str]:
    """Text to train a tokenizer on: system and layout texts as often as they occur, and every
    turn."""
    template = load_template(recipe.data.template)
    layout = control_texts(template)
    # Sorted: the order of the text decides between merges of equal count
    for row in _train_rows(registry, path, sorted(registry.datasets)):
        yield from layout
        yield (
            template.system.video
            if row.videos
            else template.system.image
            if row.images
            else template.system.language
        )
        for index, text in enumerate(row.record.texts):
            is_reply = row.record.document is None and index % 2
            # As encoding writes it: placeholders of media in a person's turn are no text
            yield text if is_reply else literal(text)
