"""Attention over packed documents without a mask: each attends within itself, and nothing is
computed across."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Name under which transformers finds it.
PACKED = "packed"


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

    On a GPU the variable-length kernel of torch reads all documents at once. It takes half
    precision only and does not exist for processors, where the documents are read one after the
    other: rows of a few long documents cost a fraction of what a dense mask does.

    Args:
        query: (1, heads, positions, size); keys and values may have fewer heads.
        options: ``cu_seq_lens_q``, the int32 offsets of documents and the end, with
            ``max_length_q``, for the kernel; or ``document_lengths``, positions of each document in
            turn, as a list.

    Returns:
        (1, positions, heads, size), and no weights.
    """
    if (lengths := options.get("document_lengths")) is not None:
        return _apart(query, key, value, lengths, scaling), None
    starts = options.get("cu_seq_lens_q")
    if starts is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    from torch.nn.attention.varlen import varlen_attn

    # Rotary positions leave queries and keys in float32 under autocast; the kernel takes half
    # precision only.
    q, k, v = (part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value))
    longest = options["max_length_q"]
    mixed = varlen_attn(
        q,
        k,
        v,
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=True,
    )
    assert isinstance(mixed, Tensor)
    return mixed[None], None


def _apart(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float | None
) -> Tensor:
    # torch.split has one backward for all its parts; slices would each fill a gradient of the whole
    # row.
    parts = zip(
        *(part.to(value.dtype).split(lengths, dim=2) for part in (query, key, value)), strict=True
    )
    mixed = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        for q, k, v in parts
    ]
    return torch.cat(mixed, dim=2).transpose(1, 2)


def register_packed() -> None:
    """Make the function known to transformers by its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
