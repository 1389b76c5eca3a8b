"""Replies: prompts are read once into a cache, then tokens are drawn one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vita_train.errors import DataError
from vita_train.models.inputs import Prompt, left_padded
from vita_train.models.language.decoder import decode
from vita_train.models.omni import Omni, document_mask

#: A character has at most four bytes, and a byte-level token at least one.
_LONGEST_CHARACTER = 4


class Detokenizer(Protocol):
    """What is asked of a tokenizer here."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = ...) -> str:
        """Return the text of ids; special ones (state marks among them) are kept."""


def generate(
    omni: Omni,
    tokenizer: Detokenizer,
    prompt: Prompt,
    *,
    stop_ids: Collection[int],
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[str]:
    """Yield the reply to one prompt as text, whole characters at a time.

    Args:
        stop_ids: tokens that end the reply; they are not part of it.
        temperature: 0 always takes the most likely token.
        top_p: draw from the fewest tokens whose probabilities reach this sum (Holtzman et al.
            2020).
        generator: source of randomness, on the model's device.

    Raises:
        DataError: the prompt leaves no room for a reply.
    """
    made = generate_ids(
        omni,
        [prompt],
        stop_ids=stop_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        generator=generator,
    )
    yield from stream_text(tokenizer, (ids[0] for ids in made))


def stream_text(tokenizer: Detokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of ids as soon as it consists of whole characters.

    Tokenizers of pieces drop a space at the beginning of what they decode, so each piece is decoded
    behind the one before it.
    """
    said: list[int] = []
    pending: list[int] = []

    def text() -> str:
        before = tokenizer.decode(said, skip_special_tokens=False)
        return tokenizer.decode(said + pending, skip_special_tokens=False)[len(before) :]

    for token in ids:
        pending.append(token)
        # U+FFFD is what bytes of half a character decode to; after four tokens it is no half any
        # more
        if not text().endswith("\ufffd") or len(pending) > _LONGEST_CHARACTER:
            yield text()
            # Only the last piece is kept: decoding all of the reply at each token would grow with
            # its square
            said, pending = pending, []
    if pending:
        yield text()


def answer(
    omni: Omni,
    tokenizer: Detokenizer,
    prompts: Sequence[Prompt],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int = 128,
    batch_size: int = 16,
) -> list[str]:
    """Return the most likely reply to each prompt, token by token, in the order of the prompts.

    Prompts of any modalities share a batch; the replies are those each would get alone.
    """
    replies = [""] * len(prompts)
    # Prompts of like length share a batch, so that little of it is padding
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index].input_ids))
    for start in range(0, len(prompts), batch_size):
        chosen = by_length[start : start + batch_size]
        made: list[list[int]] = [[] for _ in chosen]
        batch = [prompts[index] for index in chosen]
        for ids in generate_ids(omni, batch, stop_ids=stop_ids, max_new_tokens=max_new_tokens):
            for reply, token in zip(made, ids, strict=True):
                if token >= 0:
                    reply.append(token)
        for index, reply in zip(chosen, made, strict=True):
            replies[index] = tokenizer.decode(reply, skip_special_tokens=False)
    return replies


def generate_ids(
    omni: Omni,
    prompts: Sequence[Prompt],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[list[int]]:
    """Yield the next token of every prompt, -1 where the reply has ended, until all have."""
    session = _Session(omni, prompts)
    done = [False] * len(prompts)
    room = omni.llm.config.max_position_embeddings - session.longest
    tokens = draw(session.logits, temperature, top_p, generator)
    for step in range(min(max_new_tokens, room)):
        ids = tokens.tolist()
        done = [ended or token in stop_ids for ended, token in zip(done, ids, strict=True)]
        if all(done):
            return
        yield [-1 if ended else token for ended, token in zip(done, ids, strict=True)]
        # The last token need not be read: nobody asks what would follow it
        if step + 1 < min(max_new_tokens, room):
            tokens = draw(session.extend(tokens), temperature, top_p, generator)


def draw(
    logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return one token (B,) per row of logits (B, V); temperature 0 takes the most likely."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities, order = (logits.float() / temperature).softmax(-1).sort(-1, descending=True)
    # A token stays if those before it do not yet reach the sum; the first always does.
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p, 0)
    # Where top_p is 0 nothing would be left to draw from
    probabilities[:, 0].clamp_(min=torch.finfo(probabilities.dtype).tiny)
    return order.gather(-1, torch.multinomial(probabilities, 1, generator=generator))[:, 0]


class _Session:
    """A batch of prompts read into a cache, and the logits of what comes next (B, V)."""

    def __init__(self, omni: Omni, prompts: Sequence[Prompt]) -> None:
        self._omni = omni
        from transformers import DynamicCache

        batch = left_padded(prompts, omni.head_weight.device)
        self.longest = batch.input_ids.shape[1]
        limit = omni.llm.config.max_position_embeddings
        if self.longest >= limit:
            name = max(prompts, key=lambda prompt: len(prompt.input_ids)).name
            raise DataError(
                f"the prompt takes {self.longest} positions, the model has {limit}",
                code="VT-DATA-032",
                where=name or "prompt",
                remedy="shorten the conversation or the media",
            )
        self._cache = DynamicCache(config=omni.llm.config)
        self._seen = batch.document_ids > 0
        # (B, 1): padded on the left, all prompts end in the last column
        self._positions = batch.position_ids[:, -1:]
        with torch.no_grad(), _evaluating(omni):
            self.logits = self._next(
                omni.embed(batch), batch.position_ids, document_mask(batch.document_ids)
            )

    def extend(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) to every row and return the logits (B, V) of the next."""
        self._positions = self._positions + 1
        # (B, keys): what each row may look at, its padding left out, now with the new token
        self._seen = F.pad(self._seen, (0, 1), value=True)
        with torch.no_grad(), _evaluating(self._omni):
            embeds = self._omni.llm.get_input_embeddings()(tokens[:, None])
            # (B, keys) -> (B, 1, 1, keys): one query
            return self._next(embeds, self._positions, self._seen[:, None, None])

    def _next(self, embeds: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        hidden = decode(self._omni.llm, embeds, positions, mask, self._cache).hidden
        # The last position alone: logits of a whole prompt would be gigabytes
        return F.linear(hidden[:, -1], self._omni.head_weight).float()


@contextmanager
def _evaluating(omni: Omni) -> Iterator[None]:
    """Eval mode for the time of one call; every module gets back the mode it had."""
    # By module: while a stage trains some are in train mode and frozen ones are not
    modes: list[tuple[Any, bool]] = [(module, module.training) for module in omni.modules()]
    omni.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
