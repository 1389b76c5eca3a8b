"""Replies that the model writes itself, greedily, and what they contain."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from vita_train.data.index.sample import Sample
from vita_train.data.prepare.prompt import expand
from vita_train.data.prepare.tokenizer import control_id
from vita_train.inference.generate import answer
from vita_train.models.inputs import Prompt
from vita_train.models.omni import Omni

#: Words that say where, how many or nothing by themselves; every other word of a caption names
#: something seen.
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the and or but of on in at to from by with for as into onto over under near beside "
        "behind between is are "
        "was were be been being has have had do does did it its this that these those there here "
        "his her their my your "
        "our he she they we you i some any no not so than then very up down out off left right top "
        "bottom middle center "
        "centre side",
    )
)
_WORD = re.compile(r"[\w'’]+")


def write_replies(
    omni: Omni,
    tokenizer: Any,
    samples: Sequence[Sample],
    *,
    stops: Sequence[str],
    marks: Sequence[str],
    max_new_tokens: int,
) -> list[str]:
    """Return the model's own last reply to each conversation, without its state mark.

    Args:
        omni: in eval mode.
        stops: control tokens that end a reply.
        marks: what a reply may open with to tell its state.
        max_new_tokens: longest reply.
    """
    prompts = [prompt_of(sample) for sample in samples]
    stop_ids = {control_id(tokenizer, token) for token in stops}
    texts = answer(omni, tokenizer, prompts, stop_ids=stop_ids, max_new_tokens=max_new_tokens)
    return [without_mark(text, marks) for text in texts]


def prompt_of(sample: Sample) -> Prompt:
    """Return a conversation up to the open header of its last reply."""
    ids = expand(sample.prompt_ids, sample.runs).astype("int64")
    tokens = sample.tile_tokens() if sample.tiles else None
    return Prompt(
        input_ids=torch.from_numpy(ids),
        tiles=sample.load_tiles() if sample.tiles else None,
        clips=tuple(sample.load_fbank(clip) for clip in range(len(sample.audios))),
        name=sample.name,
        position_ids=torch.from_numpy(sample.position_ids()[: len(ids)]),
        tile_tokens=None if tokens is None else torch.tensor(tokens),
    )


def without_mark(text: str, marks: Sequence[str]) -> str:
    """Return a reply without the state mark it opens with, or several of them."""
    known = "|".join(re.escape(mark) for mark in marks if mark)
    return re.sub(f"^(?:{known})+", "", text) if known else text


def content_words(text: str) -> Counter[str]:
    """Return the words of a text that name something, lower case, with their numbers."""
    return Counter(word for word in _WORD.findall(text.lower()) if word not in FUNCTION_WORDS)


def recall_of_content(truths: Sequence[str], texts: Sequence[str]) -> float:
    """Return the share of the truths' content words that the texts name, a word as often as the
    truth has it."""
    named = wanted = 0
    for truth, text in zip(truths, texts, strict=True):
        words = content_words(truth)
        wanted += words.total()
        named += (words & content_words(text)).total()
    return named / wanted if wanted else float("nan")
