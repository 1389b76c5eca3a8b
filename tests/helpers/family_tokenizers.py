"""Tiny tokenizers built by hand, one for each language family, of the two kinds that the families
use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from vita_train.data.constants import STATE_MARKS

#: Control tokens of each family as its published tokenizer has them, the end of a reply first.
CONTROLS = {
    "qwen2p5_instruct": ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
    "qwen2p5_fo_instruct": ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
    "nemo": ("</s>", "<s>", "[INST]", "[/INST]"),
    "mixtral-8x7b": ("</s>", "<s>"),
    "vicuna-7b-16k": ("</s>", "<s>"),
    "vicuna-7b": ("</s>", "<s>"),
    "sheared-llama-2.7b": ("</s>", "<s>"),
    "llama3-8b": (
        "<|eot_id|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|end_of_text|>",
    ),
}
FAMILIES = tuple(CONTROLS)


@cache
def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a family: Mixtral's and Vicuna's with pieces of text and bytes, the
    others over bytes."""
    pieces = family in ("mixtral-8x7b", "vicuna-7b-16k", "vicuna-7b", "sheared-llama-2.7b")
    return (piece_tokenizer if pieces else byte_tokenizer)(CONTROLS[family])


def byte_tokenizer(controls: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for each byte, a few merges, and special tokens behind them; the first of
    ``controls`` ends replies."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "s"), ("\u0120", "t"), ("e", "r"), ("<", "|"), ("|", ">")]
    vocabulary = {
        entry: place for place, entry in enumerate([*letters, *("".join(pair) for pair in merges)])
    }
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _fast(backend, controls)


def piece_tokenizer(controls: Sequence[str]) -> PreTrainedTokenizerFast:
    """As sentencepiece makes them: a space before every text, bytes for what no piece covers."""
    space = "\u2581"
    merges = [("t", "h"), ("th", "e"), (space, "the"), ("b", "o"), ("bo", "t"), (space, "a")]
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        space,
        *"abcdefghijklmnopqrstuvwxyz:.?",
        *("".join(pair) for pair in merges),
    ]
    backend = Backend(
        models.BPE(
            vocab={piece: place for place, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(space, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _fast(backend, controls, unk_token="<unk>")


def _fast(backend: Backend, controls: Sequence[str], **tokens: str) -> PreTrainedTokenizerFast:
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (*controls, *STATE_MARKS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=controls[0],
        clean_up_tokenization_spaces=False,
        **tokens,
    )
