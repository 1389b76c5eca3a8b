"""Activation checkpointing: block inputs are kept, the rest is computed again in backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def enable_checkpointing(
    modules: nn.ModuleDict, names: Iterable[str] = ("llm", "vision", "audio_encoder")
) -> None:
    """Checkpoint every transformer block of the named modules that are present.

    The library's own switch acts in train mode only; a frozen language model is in eval mode and
    still has to carry
    gradients to what stands before it, so blocks are wrapped here wherever gradients are on.
    """
    for name in names:
        if name in modules:
            for block in transformer_blocks(modules[name]):
                block.forward = _checkpointed(block.forward)


def transformer_blocks(module: nn.Module) -> nn.ModuleList:
    """Return the blocks of a language model, vision tower or speech encoder, in order; sharding
    wraps the same."""
    blocks = module.get_submodule("model").layers if hasattr(module, "lm_head") else module.blocks
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _checkpointed(inner: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        return checkpoint(inner, *args, use_reentrant=False, **kwargs)

    return forward
