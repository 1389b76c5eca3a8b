"""Keys and values that stand before everything the autoregressive layers see: made from the
language model's last hidden states of the text, by layers of their own.

Source: Freeze-Omni (Wang et al. 2024), whose class VITA-1.5 shares; VITA-1.5 itself speaks without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from vita_train.models.speech.layers import real_mask, run_layers


class PrefixKeys:
    """Keys and values of a prefix, one pair a layer, in the form in which transformers' layers take
    what came before.

    Unlike a cache it never grows, so that a layer may be computed again in backward.
    """

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], lengths: Tensor) -> None:
        self.pairs = pairs
        """(B, heads, P, size) of each layer."""
        self.lengths = lengths
        """(B,) real positions."""

    @property
    def size(self) -> int:
        """Positions of the longest row, P."""
        return self.pairs[0][0].shape[2]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Return keys and values of a layer with the prefix before them."""
        before_key, before_value = self.pairs[layer]
        return torch.cat([before_key, key], dim=2), torch.cat([before_value, value], dim=2)

    def cache(self) -> DynamicCache:
        """Return a cache that begins with them."""
        cache = DynamicCache()
        for layer, (key, value) in enumerate(self.pairs):
            cache.update(key, value, layer)
        return cache

    def seen(self, mask: Tensor) -> Tensor:
        """Return a mask (B, 1, queries, keys) with the prefix, which all see, before its keys."""
        place = torch.arange(self.size, device=mask.device)
        real = (place < self.lengths[:, None])[:, None, None]
        return torch.cat([real.expand(-1, -1, mask.shape[2], -1), mask], dim=-1)


class _Kept:
    """Takes the keys and values of layers as they are made."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def update(self, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        self.pairs.append((key, value))
        return key, value


class SpeechPrefix(nn.Module):
    """Llama layers over hidden states, as many as there are autoregressive ones; nothing but their
    keys and values is used.

    ``trained`` says whether they have been: a stage may train the decoder before them.
    """

    trained: Tensor

    def __init__(self, config: LlamaConfig, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(layers))
        self.size = config.hidden_size // config.num_attention_heads
        self.register_buffer("trained", torch.zeros((), dtype=torch.bool))

    def forward(self, hidden: Tensor, lengths: Tensor) -> PrefixKeys:
        """Return keys and values for hidden states (B, P, width), of which ``lengths`` (B,) are
        real; they see each other both ways. Positions are counted from 0, and from 0 again by what
        follows, as published."""
        place = torch.arange(hidden.shape[1], device=hidden.device).expand(len(hidden), -1)
        kept, mask = _Kept(), real_mask(lengths, hidden.shape[1])
        run_layers(self.layers, hidden, place, mask, self.size, kept)
        return PrefixKeys(kept.pairs, lengths.clamp(min=1))

    def without_use(self) -> list[nn.Parameter]:
        """Return the parameters that nothing reads: the last layer's, behind its keys and
        values."""
        last = self.layers[-1]
        read = ("input_layernorm.", "self_attn.k_proj.", "self_attn.v_proj.")
        return [part for name, part in last.named_parameters() if not name.startswith(read)]
