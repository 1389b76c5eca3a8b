"""Attention of transformers' models without a mask: over packed documents, and over tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vita_train.models.attention.kernels import Documents, attend, flex_masked, kernel_for

#: What the names begin with under which transformers finds the functions, before the setting.
_PACKED, _TILES = "packed_", "tiles_"
#: Name of FlexAttention with any mask.
_FLEX = "masked_flex"
#: Settings, and how they end the names: transformers takes any name with "flash" in it for its own.
_KINDS = {"auto": "auto", "varlen": "varlen", "flash": "package", "flex": "flex"}


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend causally within each document of one long row; with a mask instead of documents, as
    sdpa does.

    Args:
        query: (1, heads, positions, size); keys and values may have fewer heads.
        options: ``cu_seq_lens_q``, the int32 offsets of documents and the end, ``max_length_q``,
            and ``document_kernel``, which computes it.

    Returns:
        (1, positions, heads, size), and no weights.
    """
    starts = options.get("cu_seq_lens_q")
    if starts is None:
        return _masked(module, query, key, value, attention_mask, scaling=scaling, **options)
    # (1, heads, positions, size) -> (positions, heads, size)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    documents = Documents(starts, options["max_length_q"])
    mixed = attend(options["document_kernel"], q, k, v, documents, causal=True, scale=scaling)
    return mixed[None], None


def tile_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend within each tile of a vision tower, every token to all; with a mask, as sdpa does.

    Args:
        query: (tiles, heads, tokens, size), and keys and values likewise.

    Returns:
        (tiles, tokens, heads, size), and no weights.
    """
    kind = _kind_of(module.config, _TILES) or "sdpa"
    mixed = None if attention_mask is not None else attend_tiles(kind, query, key, value, scaling)
    if mixed is None:
        return _masked(module, query, key, value, attention_mask, scaling=scaling, **options)
    return mixed, None


def flex_masked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend by FlexAttention where a mask lets.

    Args:
        query: (B, heads, positions, size); keys and values may have fewer heads.
        attention_mask: (B, 1, positions, keys) bool, True where a query may look.

    Returns:
        (B, positions, heads, size), and no weights.
    """
    assert attention_mask is not None
    mask, half = attention_mask, value.dtype != torch.float32
    # Called for its error: FlexAttention may not run here
    kernel_for("flex", value.device, half=half, trains=torch.is_grad_enabled())
    # As in attend: rotary positions leave both in float32 under autocast
    query, key = query.to(value.dtype), key.to(value.dtype)
    return flex_masked(query, key, value, mask, scaling).transpose(1, 2), None


def attend_tiles(
    kind: str, query: Tensor, key: Tensor, value: Tensor, scaling: float | None = None
) -> Tensor | None:
    """Return what tiles (N, heads, tokens, size) attend to, (N, tokens, heads, size), by the kernel
    that a setting means; none where that is torch's own, for which tiles need no row."""
    half = value.dtype != torch.float32
    kernel = kernel_for(kind, value.device, half=half, trains=torch.is_grad_enabled())
    if kernel in ("sdpa", "apart"):
        return None
    tiles, _, tokens, _ = query.shape
    starts = torch.arange(tiles + 1, device=query.device, dtype=torch.int32) * tokens
    # (tiles, heads, tokens, size) -> (tiles * tokens, heads, size), each tile a document
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    mixed = attend(kernel, q, k, v, Documents(starts, tokens), causal=False, scale=scaling)
    return mixed.unflatten(0, (tiles, tokens))


def _masked(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(*arguments, **options)


def packed_name(kind: str) -> str:
    """Return the name by which transformers finds attention over packed documents for a
    setting."""
    _register()
    return kind if kind == "sdpa" else _PACKED + _KINDS[kind]


def packed_kind(config: Any) -> str:
    """Return the setting that a language model's configuration was made with."""
    return _kind_of(config, _PACKED) or "sdpa"


def masked_name(kind: str) -> str:
    """Return the name by which transformers finds attention with a mask for a setting."""
    _register()
    return _FLEX if kind == "flex" else "sdpa"


def tiles_name(kind: str) -> str:
    """Return the name by which transformers finds attention over tiles for a setting."""
    _register()
    return kind if kind == "sdpa" else _TILES + _KINDS[kind]


def _kind_of(config: Any, prefix: str) -> str | None:
    word = str(config._attn_implementation)
    kinds = {prefix + ending: kind for kind, ending in _KINDS.items()}
    return kinds.get(word)


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_FLEX, flex_masked_attention)
    for ending in _KINDS.values():
        AttentionInterface.register(_PACKED + ending, packed_attention)
        AttentionInterface.register(_TILES + ending, tile_attention)
