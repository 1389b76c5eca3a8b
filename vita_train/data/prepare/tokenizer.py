"""The tokenizer: loaded from a pretrained model, or a byte-level BPE trained on the run's own
text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

from vita_train.data.constants import STATE_MARKS
from vita_train.errors import DataError, RecipeError

Tokenizer: TypeAlias = Any
"""A fast tokenizer of transformers (PreTrainedTokenizerFast)."""

END_OF_TEXT = "<|endoftext|>"
#: Of the default family's template.
CONTROLS = ("<|im_start|>", "<|im_end|>")
SPECIAL_TOKENS = (END_OF_TEXT, *CONTROLS, *STATE_MARKS)
#: How vocabularies of pieces write a space.
_PIECE_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

#: How Qwen2 cuts text into words before merging (tokenizer.json of the public models).
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    out: Path,
    *,
    controls: Sequence[str] = CONTROLS,
    end: str = CONTROLS[-1],
) -> Tokenizer:
    """Train a byte-level BPE with the control tokens of a template and the state marks, and save
    it.

    Args:
        texts: training text; the same texts in the same order give the same file.
        vocab_size: entries, special tokens and the 256 bytes included; fewer where the text has no
            more merges.
        out: directory that ``AutoTokenizer.from_pretrained`` loads afterwards.
        controls: special tokens beside padding and state marks.
        end: the one that ends a reply.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    # As Qwen2's tokenizer: composed and decomposed letters get the same ids
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[
            AddedToken(token, special=True, normalized=False)
            for token in dict.fromkeys((END_OF_TEXT, *controls, *STATE_MARKS))
        ],
        # All 256 bytes, whatever the text has: nothing is ever unknown. Sorted, as it comes from a
        # set
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=end,
        pad_token=END_OF_TEXT,
        # Else decoding takes spaces out before punctuation, and text does not come back as it was
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(str(out))
    return tokenizer


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer from a directory or a hub name.

    Raises:
        DataError: there is no tokenizer, or it is not a fast one.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"tokenizer cannot be loaded: {first}",
            code="VT-DATA-017",
            where=str(source),
            remedy="give a directory or hub name that holds tokenizer.json",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(
            "tokenizer has no fast version",
            code="VT-DATA-018",
            where=str(source),
            remedy="use one with tokenizer.json",
        )
    return tokenizer


class SavedTokenizer:
    """What encoding takes of a tokenizer that was saved, without transformers: importing that takes
    longer than some ten thousand records, and half a gigabyte.

    Args:
        folder: with ``tokenizer.json``, as `load_tokenizer` or `train_tokenizer` saved it.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Backend

        self.backend_tokenizer = Backend.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        unknown = config.get("unk_token")
        token = unknown.get("content") if isinstance(unknown, dict) else unknown
        self.unk_token_id = self.convert_tokens_to_ids(token) if token else None

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return the id of a token; None where there is none."""
        found: int | None = self.backend_tokenizer.token_to_id(token)
        return found

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of ids."""
        return [self.backend_tokenizer.id_to_token(token) or "" for token in ids]

    def __call__(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> SimpleNamespace:
        """Encode a text; ``input_ids`` are its ids."""
        # tokenizers' name for the same: special tokens are encoded as text
        self.backend_tokenizer.encode_special_tokens = split_special_tokens
        encoded = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return SimpleNamespace(input_ids=encoded.ids)


def plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode text as ordinary text: what looks like a special token becomes the tokens of its
    characters.

    Tokenizers made of pieces put a space before whatever they are given. A conversation is written
    in stretches, so that space would stand in the middle of it; it is left out here.

    Raises:
        RecipeError: the tokenizer's space cannot be told from the text.
    """
    if not text:
        return []
    guard = _guard(tokenizer)
    return _unguarded(_encoded(tokenizer, f"\n{text}" if guard else text), guard)


def _unguarded(ids: list[int], guard: tuple[int, ...]) -> list[int]:
    if tuple(ids[: len(guard)]) != guard:
        raise RecipeError(
            "the tokenizer joins the beginning of a text with a newline before it",
            code="VT-RECIPE-002",
            where="tokenizer",
            remedy="use a tokenizer that keeps newlines apart, or one over bytes",
        )
    return ids[len(guard) :]


def batch_ids(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, list[int]]:
    """Return each text with its `plain_ids`, all found in one call: several times as fast as one by
    one.

    Raises:
        RecipeError: as of `plain_ids`.
    """
    # System texts and layout come with every record
    distinct = list(dict.fromkeys(texts))
    guard = _guard(tokenizer)
    backend = tokenizer.backend_tokenizer
    # A tokenizer.json may have either switched on, and the backend keeps what a call before has set
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    found = backend.encode_batch_fast(
        [f"\n{text}" for text in distinct] if guard else distinct, add_special_tokens=False
    )
    return {
        text: _unguarded(encoding.ids, guard) if text else []
        for text, encoding in zip(distinct, found, strict=True)
    }


@lru_cache(maxsize=8)
def _guard(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return what a newline becomes if the tokenizer puts a space before every text; nothing if it
    does not.

    In a vocabulary of pieces a newline is a byte that merges with nothing, so what follows it is
    encoded as it stands.
    """
    first = tokenizer.convert_ids_to_tokens(_encoded(tokenizer, "a"))[0]
    return tuple(_encoded(tokenizer, "\n")) if first.startswith(_PIECE_SPACE) else ()


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids


@lru_cache(maxsize=256)
def control_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a control token or state mark.

    Raises:
        RecipeError: the tokenizer does not hold it as one token.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if found is not None and found != tokenizer.unk_token_id:
        return int(found)
    ids = tokenizer(
        token, add_special_tokens=False
    ).input_ids  # byte-level vocabularies spell marks in byte symbols
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return int(ids[0])
    raise RecipeError(
        f"the tokenizer has no single token for {token!r}",
        code="VT-RECIPE-003",
        where="tokenizer",
        remedy="choose a template that fits the tokenizer; for a state mark, data.state_mode digit",
    )


def check_untypable(tokenizer: Tokenizer, tokens: Iterable[str]) -> None:
    """Check that no control token can be typed: its name as text must become other tokens.

    Raises:
        RecipeError: one can, so that a user's text could end a turn or open one.
    """
    for token in tokens:
        # Also in the middle of a text: some tokenizers find added tokens only between spaces
        if control_id(tokenizer, token) in plain_ids(tokenizer, f"a {token} b") + plain_ids(
            tokenizer, token
        ):
            raise RecipeError(
                f"the text {token!r} becomes the control token of that name",
                code="VT-RECIPE-004",
                where="tokenizer",
                remedy="use a tokenizer that holds it as a special token",
            )


def pad_id(tokenizer: Tokenizer) -> int:
    """Return the id that fills padding; padded positions are never attended or supervised."""
    return int(
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
