"""Where a tensor of ours lies in someone's checkpoint, by rules for its name."""

from __future__ import annotations

import re
from typing import NamedTuple

from vita_train.recipe.tower import Rule


class TensorLocation(NamedTuple):
    """Where a tensor of ours lies: it is a tensor of another layout, or one of equal parts of it
    (first axis)."""

    name: str
    part: int = 0
    parts: int = 1


def placed(prefix: str, rules: tuple[Rule, ...], name: str) -> TensorLocation | None:
    """Return where rules put a tensor, with a prefix before its name there."""
    for pattern, theirs, letters in rules:
        if match := re.fullmatch(pattern, name):
            # The letter's place among the parts: of qkv, k is the second of three
            part = letters.index(match["part"]) if letters else 0
            return TensorLocation(prefix + match.expand(theirs), part, max(1, len(letters)))
    return None
