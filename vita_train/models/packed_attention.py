"""Attention over packed documents without a mask, by the variable-length kernel that comes with torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

#: Name under which transformers finds it.
VARLEN = "varlen"


def varlen_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                     scaling: float | None = None, **options: Any) -> tuple[Tensor, Tensor | None]:
    """Attend causally within each document of one long row; with a mask instead of offsets, as sdpa does.

    Args:
        query: (1, heads, positions, size); keys and values may have fewer heads.
        options: ``cu_seq_lens_q``, the int32 offsets of documents and the end, and ``max_length_q``.

    Returns:
        (1, positions, heads, size), and no weights.
    """
    starts = options.get("cu_seq_lens_q")
    if starts is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    from torch.nn.attention.varlen import varlen_attn

    # Rotary positions leave queries and keys in float32 under autocast; the kernel takes half precision only.
    q, k, v = (part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value))
    longest = options["max_length_q"]
    mixed = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(mixed, Tensor)
    return mixed[None], None


def register_varlen() -> None:
    """Make the kernel known to transformers by its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(VARLEN, varlen_attention)
