"""Which kernel computes attention, and calls to each over documents that lie one after the other.

Every kernel gets the same: queries, keys and values of all documents in one row, and where each
document begins. Packed rows of the language model are such a row, and so are tiles of a vision
tower, each a document of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from vita_train.errors import RecipeError

Kernel = Literal["varlen", "flash", "flex", "sdpa", "apart"]
"""varlen: torch's variable-length kernel. flash: that of the package flash-attn. flex: torch's
FlexAttention with a mask of documents. sdpa: torch's, with a dense mask. apart: the same, one
document after the other, without a mask."""

#: Kernels that run on GPUs in half precision and nowhere else.
_HALF_PRECISION = ("varlen", "flash")
#: Least compute capability that flash-attn 2 supports.
_FLASH_CAPABILITY = (8, 0)


def kernel_for(kind: str, device: torch.device, *, half: bool, trains: bool = True) -> Kernel:
    """Return the kernel that a setting means on a device.

    Args:
        kind: ``auto`` or one of `Kernel`.
        device: of the tensors.
        half: whether they are of half precision, by themselves or under autocast.
        trains: whether gradients are needed.

    Raises:
        RecipeError: the kernel does not run there.
    """
    if kind == "auto":
        if device.type != "cuda":
            # Without a mask fused kernels apply, and no score is computed across documents
            return "apart"
        # The variable-length kernels know no float32
        if not half:
            return "sdpa"
        return "flash" if has_flash(device) else "varlen"
    if kind in _HALF_PRECISION and (device.type != "cuda" or not half):
        where = "in float32" if device.type == "cuda" else "on a processor"
        raise _unfit(kind, f"needs a GPU and half precision, and this is {where}")
    if kind == "flash" and not has_flash(device):
        raise _unfit(kind, "needs the package flash-attn and a GPU of compute capability 8.0")
    if kind == "flex" and device.type != "cuda" and trains:
        raise _unfit(kind, "has no gradients on a processor")
    assert kind in get_args(Kernel)
    return cast(Kernel, kind)


def has_flash(device: torch.device) -> bool:
    """Say whether flash-attn is installed and the device can run it."""
    return (
        importlib.util.find_spec("flash_attn") is not None
        and torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY
    )


@dataclass(frozen=True)
class Documents:
    """Documents that lie one after the other in a row."""

    starts: Tensor
    """(documents + 1,) int32 offsets of the documents, and the end."""
    longest: int
    """Positions of the longest."""

    @property
    def of_both(self) -> tuple[Tensor, Tensor, int, int]:
        """What the kernels ask for twice: of the queries, and of the keys, which are the same
        here."""
        return self.starts, self.starts, self.longest, self.longest


@dataclass(frozen=True)
class _How:
    """What every kernel is told besides queries, keys and values."""

    documents: Documents
    causal: bool
    scale: float | None


def attend(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    *,
    causal: bool,
    scale: float | None = None,
) -> Tensor:
    """Attend within each document.

    Args:
        kernel: any but ``sdpa``, which takes a mask.
        query: (positions, heads, size) of all documents, one after the other; keys and values may
            have fewer heads.
        documents: where each of them lies.
        causal: whether a position sees none after it.
        scale: factor on the scores; none is one over the root of the size.

    Returns:
        (positions, heads, size).
    """
    # Rotary positions leave queries and keys in float32 under autocast.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return _CALLS[kernel](query, key, value, _How(documents, causal, scale))


def _varlen(query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    mixed = varlen_attn(
        query,
        key,
        value,
        *how.documents.of_both,
        scale=how.scale,
        # -1 is without bound: all before and none after, or all on both sides
        window_size=(-1, 0) if how.causal else (-1, -1),
        enable_gqa=True,
    )
    assert isinstance(mixed, Tensor)
    return mixed


def _flash(query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    mixed: Tensor = flash_attn_varlen_func(
        query, key, value, *how.documents.of_both, softmax_scale=how.scale, causal=how.causal
    )
    return mixed


def _flex(query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    total = len(query)
    documents = document_of(how.documents.starts, total)

    def seen(batch: Tensor, head: Tensor, at: Tensor, to: Tensor) -> Tensor:
        same = documents[at] == documents[to]
        return same & (at >= to) if how.causal else same

    # None: one mask for all batches and heads. Blocks without a True are skipped
    mask = create_block_mask(seen, None, None, total, total, device=str(query.device))
    # (positions, heads, size) -> (1, heads, positions, size)
    parts = (part.transpose(0, 1)[None] for part in (query, key, value))
    mixed = _flex_call(query.device.type)(*parts, block_mask=mask, scale=how.scale, enable_gqa=True)
    return cast(Tensor, mixed)[0].transpose(0, 1)


def flex_masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None
) -> Tensor:
    """Return what (B, heads, positions, size) attend to by FlexAttention, where ``mask`` (B, 1,
    positions, keys) is True."""
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(batch: Tensor, head: Tensor, at: Tensor, to: Tensor) -> Tensor:
        return mask[batch, 0, at, to]

    # None: all heads share the mask
    size = (len(query), None, query.shape[2], key.shape[2])
    blocks = create_block_mask(seen, *size, device=str(query.device))
    call = _flex_call(query.device.type)
    return cast(Tensor, call(query, key, value, block_mask=blocks, scale=scale, enable_gqa=True))


@cache
def _flex_call(device: str) -> Callable[..., Any]:
    """Return FlexAttention, compiled where that makes a kernel of it."""
    from torch.nn.attention.flex_attention import flex_attention

    call: Any = flex_attention
    # Uncompiled it computes all scores, which is right but no faster than a dense mask
    return cast("Callable[..., Any]", torch.compile(call) if device == "cuda" else call)


def _apart(query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
    lengths = how.documents.starts.diff().tolist()
    # torch.split has one backward for all its parts; slices would each fill a gradient of the whole
    # row.
    parts = zip(
        *(part.transpose(0, 1)[None].split(lengths, dim=2) for part in (query, key, value)),
        strict=True,
    )
    mixed = [
        F.scaled_dot_product_attention(
            q, k, v, is_causal=how.causal, scale=how.scale, enable_gqa=True
        )
        for q, k, v in parts
    ]
    return torch.cat(mixed, dim=2)[0].transpose(0, 1)


_CALLS: dict[str, Callable[..., Tensor]] = {
    "varlen": _varlen,
    "flash": _flash,
    "flex": _flex,
    "apart": _apart,
}


def document_of(starts: Tensor, total: int) -> Tensor:
    """Return the number of the document, (total,), that each position is in."""
    place = torch.arange(total, device=starts.device)
    # right=True counts the starts at or before a position; documents count from 0
    return torch.searchsorted(starts, place.to(starts.dtype), right=True) - 1


def _unfit(kind: str, why: str) -> RecipeError:
    return RecipeError(
        f"attention {kind} {why}",
        code="VT-RECIPE-080",
        where="attention",
        remedy="take auto, which takes what runs there",
    )
