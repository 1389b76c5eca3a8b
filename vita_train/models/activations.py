"""The transformer blocks of the model, and activation checkpointing: the inputs of blocks are kept,
the rest is computed again in backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Modules = Mapping[str, nn.Module] | nn.ModuleDict

#: Modules that are made of transformer blocks. The others are small, and a codec counts what its
#: codebooks see in forward, which may run once only.
_MADE_OF_BLOCKS = ("llm", "vision", "audio_encoder", "speech_decoder")


def transformer_blocks(modules: Modules) -> Iterator[nn.Module]:
    """Yield the transformer blocks of those modules that have some, in order.

    The one rule for what is treated as a unit: activation checkpointing computes each block again,
    FSDP2 shards each by itself, and quantisation touches their matrices alone.

    Args:
        modules: by their names in ``recipe.modules.MODULES``; others are passed over.
    """
    for name in _MADE_OF_BLOCKS:
        if name == "llm" and name in modules:  # a causal language model of transformers
            yield from cast("nn.ModuleList", modules[name].get_submodule("model").layers)
        elif name in modules:
            yield from cast("nn.ModuleList", modules[name].blocks)


def enable_checkpointing(modules: Modules) -> None:
    """Checkpoint every transformer block of the modules.

    The library's own switch acts in train mode only; a frozen language model is in eval mode and
    still has to carry gradients to what stands before it, so blocks are wrapped here wherever
    gradients are on.
    """
    for block in transformer_blocks(modules):
        block.forward = _checkpointed(block.forward)


def _checkpointed(inner: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        return checkpoint(inner, *args, use_reentrant=False, **kwargs)

    return forward
