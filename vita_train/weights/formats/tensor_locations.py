"""Where our tensors lie in other people's checkpoints: one table each, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from vita_train.recipe.modules import MODULES
from vita_train.recipe.tower import Rule
from vita_train.recipe.towers.internvit import RULES as INTERNVIT_RULES


class TensorLocation(NamedTuple):
    """Where a tensor of ours lies: it is a tensor of another layout, or one of equal parts of it
    (first axis)."""

    name: str
    part: int = 0
    parts: int = 1


_SAME: tuple[Rule, ...] = ((r"(.+)", r"\1", ""),)

#: The speech encoder, below ``encoder.``.
_ENCODER: tuple[Rule, ...] = (
    (r"global_cmvn\.(mean|istd)", r"global_cmvn.\1", ""),
    (r"subsampling\.conv\.([02])\.(\w+)", r"enc.0.core.conv.\1.\2", ""),
    (r"subsampling\.out\.(\w+)", r"enc.0.core.out.0.\1", ""),
    (r"embed\.([01])\.(\w+)", r"enc.1.embed.\1.\2", ""),
    (
        r"encoders\.(\d+)\.(self_attn\.(?:linear_(?:q|k|v|out|pos)\.\w+|pos_bias_[uv])|feed_forward\.w_[12]\.\w+|"
        r"norm[12]\.\w+)",
        r"enc.1.encoders.\1.\2",
        "",
    ),
    (r"after_norm\.(\w+)", r"enc.1.after_norm.\1", ""),
)
_ADAPTER: tuple[Rule, ...] = (
    (r"conv\.(\w+)", r"conv1d2.\1", ""),
    (r"norm\.(\w+)", r"bn2.\1", ""),
    (r"project\.(\w+)", r"project.\1", ""),
)
_VISION_TRANSFORMERS: tuple[Rule, ...] = ((r"model\.(.+)", r"\1", ""),)

#: Modules of the released VITA-1.5 checkpoint: prefix and rules. ``adpter`` is how the release
#: spells it.
_VITA: dict[str, tuple[str, tuple[Rule, ...]]] = {
    "llm": ("", _SAME),
    "vision": ("model.vision_tower.vision_tower.", INTERNVIT_RULES),
    "projector": ("model.mm_projector.", _SAME),
    "audio_encoder": ("model.audio_encoder.encoder.", _ENCODER),
    "audio_adapter": ("model.audio_encoder.adpter.", _ADAPTER),
    "audio_prompt": ("model.audio_encoder.prompt_embeddings.", _SAME),
    "state_head": ("predictor_head.", _SAME),
}
VITA_MODULES: tuple[str, ...] = tuple(name for name in MODULES if name in _VITA)

LocateTensor = Callable[[str, str], TensorLocation | None]
"""(module, name of ours) to where it lies, or None if the layout has no place for it."""


def vita_location(module: str, name: str) -> TensorLocation | None:
    """Return where a tensor lies in the released VITA-1.5 layout."""
    prefix, rules = _VITA.get(module, ("", ()))
    return placed(prefix, rules, name)


def internvit_location(module: str, name: str) -> TensorLocation | None:
    """Return where a tensor of the tower lies in InternViT's original layout: query, key and value
    are one tensor."""
    return placed("", INTERNVIT_RULES if module == "vision" else (), name)


def internvl_vision_location(module: str, name: str) -> TensorLocation | None:
    """Return where a tensor of the tower lies in a checkpoint of transformers'
    InternVLVisionModel."""
    return placed("", _VISION_TRANSFORMERS if module == "vision" else (), name)


def llm_location(module: str, name: str) -> TensorLocation | None:
    """Return where a tensor of the language model lies in a checkpoint of transformers: it has our
    names."""
    return placed("", _SAME if module == "llm" else (), name)


def flat_location(module: str, name: str) -> TensorLocation | None:
    """Return where a tensor lies in a directory of ours for transformers: the module's name stands
    before."""
    return TensorLocation(f"{module}.{name}")


def placed(prefix: str, rules: tuple[Rule, ...], name: str) -> TensorLocation | None:
    """Return where rules put a tensor, with a prefix before its name there."""
    for pattern, theirs, letters in rules:
        if match := re.fullmatch(pattern, name):
            part = letters.index(match["part"]) if letters else 0
            return TensorLocation(prefix + match.expand(theirs), part, max(1, len(letters)))
    return None
