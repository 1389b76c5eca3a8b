"""How many visual tokens a tower merges away, and in which of its blocks (ToMe, Bolya et al. 2023).

Preparation, planner and model count with these functions and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from vita_train.recipe.base import Strict


class MergeSpec(Strict):
    """Token merging in the blocks of a vision tower, as AuroraCap trains with it."""

    keep: float = Field(ge=0.01, le=1)
    """Share of a tile's tokens to keep (AuroraCap's ``visual_token_merge_ratio``). 0.2 to 0.4 for
    captions, above 0.5 for questions, above 0.8 for text in images."""
    schedule: Literal["exact", "published"] = "exact"
    """exact: as many tokens stay as ``keep`` says. published: as many are merged in every block as
    in AuroraCap, which counts one block more than it merges in and rounds down, so that more
    stay: 171 of 729 for 0.2 (0.235), 109 for 0.1 (0.15)."""
    attention: Literal["off", "key"] = "off"
    """key: a merged token counts in attention as often as it has members (the size's logarithm
    is added along the keys), for towers that were not trained with merging. off: as a token; so
    AuroraCap was trained."""
    slowfast: bool = False
    """The first frame of a video keeps all its tokens."""


def removals(
    spec: MergeSpec, tokens: int, blocks: int, declared: int, class_tokens: int = 1
) -> tuple[int, ...]:
    """Return how many tokens each block merges away.

    Args:
        spec: settings.
        tokens: patches of a tile, without a class token.
        blocks: that are computed.
        declared: layers of the whole tower, which the published schedule divides by.
        class_tokens: before the patches; they are never merged.

    Raises:
        ValueError: ``keep`` cannot be reached exactly, since a block merges at most half.
    """
    if spec.schedule == "published":
        return (int(tokens * (1 - spec.keep) / declared),) * blocks
    total = tokens - round(spec.keep * tokens)
    each, more = divmod(total, blocks)
    # What does not divide goes to the first blocks, where tokens are most alike
    counts = tuple(each + (block < more) for block in range(blocks))
    if (left := kept_tokens(tokens, counts, class_tokens)) != tokens - total:
        raise ValueError(
            f"keep {spec.keep} asks for {tokens - total} of {tokens} tokens, but {blocks} blocks "
            f"that each merge at most half of them leave {left}"
        )
    return counts


def kept_tokens(tokens: int, counts: Sequence[int], class_tokens: int = 1) -> int:
    """Return how many patches are left of ``tokens`` after blocks that merge ``counts``."""
    length = tokens + class_tokens
    for count in counts:
        # A block matches every second token with the others: half of them at most can go
        length -= min(count, (length - class_tokens) // 2)
    return length - class_tokens
