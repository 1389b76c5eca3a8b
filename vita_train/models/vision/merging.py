"""Token merging (ToMe, Bolya et al. 2023): in each block the tokens that are most alike become one.

What is merged is an argument of the forward pass and nothing of it stays in a module. Matching
follows the published method: of two interleaved sets each token of the first proposes the token of
the second whose keys are most like its own, and the most alike of these pairs are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Merged(NamedTuple):
    """Tokens after merging."""

    hidden: Tensor
    """(N, T, D). Not in reading order: what was not merged of the first set, then the second."""
    sizes: Tensor
    """(N, T, 1) float: tokens that each has taken in, itself included."""


class Matching(NamedTuple):
    """Which tokens are merged into which. A: even positions, B: odd positions."""

    kept: Tensor
    """(N, A - r) positions within A that stay, in their order."""
    merged: Tensor
    """(N, r) positions within A that are merged away."""
    targets: Tensor
    """(N, r) positions within B that take them in."""


@torch.no_grad()
def match(metric: Tensor, removed: int, *, class_token: bool) -> Matching:
    """Match tokens by the likeness of their keys.

    Args:
        metric: (N, T, C), the keys, averaged over heads.
        removed: tokens to merge away; at most half of them are.
        class_token: the first token is protected: it is not merged, and nothing is merged into it.
    """
    removed = min(removed, (metric.shape[1] - class_token) // 2)
    unit = F.normalize(metric.float(), dim=-1)
    # The class token has an even position: nothing can be merged into it, and its own row is ruled
    # out
    first, second = unit[:, ::2], unit[:, 1::2]
    scores = first @ second.transpose(1, 2)
    if class_token:
        scores[:, 0] = -torch.inf
    best, target = scores.max(-1)
    # stable: patches of a plain background are all equally alike, and the choice must not change
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged = order[:, :removed]
    return Matching(order[:, removed:].sort(-1).values, merged, target.gather(1, merged))


def merge(tokens: Merged, matching: Matching) -> Merged:
    """Return tokens with the matched ones merged: means weighted by size, sizes added."""
    # Sizes ride along as one more channel, and come out summed
    weighted = torch.cat((tokens.hidden * tokens.sizes.to(tokens.hidden.dtype), tokens.sizes), -1)
    first, second = weighted[:, ::2], weighted[:, 1::2]
    kept, merged = _rows(first, matching.kept), _rows(first, matching.merged)
    # A product with ones and zeros: adding to places in turn has another order every time on GPUs.
    into = F.one_hot(matching.targets, second.shape[1]).to(weighted.dtype)
    second = second + into.transpose(1, 2) @ merged
    together = torch.cat((kept, second), 1)
    sizes = together[..., -1:]
    return Merged((together[..., :-1] / sizes).to(tokens.hidden.dtype), sizes)


def _rows(values: Tensor, places: Tensor) -> Tensor:
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


class MergingBlock(nn.Module):
    """Before a block of CLIP or SigLIP as transformers has them among the bases of a class:
    attention, merge, perceptron.

    Without ``tokens`` the block is what it was.
    """

    self_attn: Any
    layer_norm1: nn.Module
    layer_norm2: nn.Module
    mlp: nn.Module

    def forward(
        self,
        *args: Any,
        tokens: Merged | None = None,
        removed: int = 0,
        class_token: bool = True,
        proportional: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the next tokens, ``removed`` fewer.

        Args:
            args: of the block as it was.
            tokens: what the block before has given.
            removed: tokens that are merged away, at most half.
            class_token: the first token is protected.
            proportional: the logarithms of sizes are added to the scores, along the keys.
            kwargs: of the block as it was.
        """
        if tokens is None:
            return super().forward(*args, **kwargs)
        attended, keys = self._attend(
            self.layer_norm1(tokens.hidden), tokens.sizes if proportional else None
        )
        tokens = Merged(tokens.hidden + attended, tokens.sizes)
        if removed:
            tokens = merge(tokens, match(keys.mean(1), removed, class_token=class_token))
        fed = self.mlp(self.layer_norm2(tokens.hidden))
        return Merged(tokens.hidden + fed, tokens.sizes)

    def _attend(self, hidden: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what attention adds (N, T, D), and the keys (N, H, T, C)."""
        attention = self.self_attn
        query, key, value = (
            part(hidden).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        # ToMe's proportional attention: a key of s patches weighs as much as s keys. (N, T, 1) ->
        # (N, 1, 1, T)
        bias = None if sizes is None else sizes.log().to(query.dtype).transpose(1, 2)[:, None]
        mixed = F.scaled_dot_product_attention(query, key, value, bias)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2)), key


def let_merge(blocks: nn.ModuleList) -> None:
    """Make blocks of one class able to merge, in place: their weights and names stay."""
    kind = type(blocks[0])
    # transformers makes its blocks itself; another class for them leaves weights and names alone
    merging = type(f"Merging{kind.__name__}", (MergingBlock, kind), {})
    for block in blocks:
        block.__class__ = merging


def merge_through(
    blocks: Sequence[nn.Module],
    hidden: Tensor,
    removals: Sequence[int],
    *,
    class_token: bool,
    proportional: bool,
) -> Merged:
    """Return the tokens (N, T, D) after blocks that each merge so many away; the class token, if
    there is one, is still the first."""
    # float32: bfloat16 counts exactly to 256 only
    tokens = Merged(hidden, hidden.new_ones(*hidden.shape[:2], 1, dtype=torch.float32))
    for block, removed in zip(blocks, removals, strict=True):
        tokens = block(
            tokens=tokens, removed=removed, class_token=class_token, proportional=proportional
        )
    return tokens
