"""Where our tensors lie in other people's checkpoints: one table each, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from vita_train.recipe.modules import MODULES
from vita_train.recipe.tower import Rule
from vita_train.recipe.towers.internvit import RULES as INTERNVIT_RULES
from vita_train.weights.formats.location import TensorLocation, placed
from vita_train.weights.formats.speech_names import SPEECH_MODULES, SPEECH_PREFIXES, speech_rules

if TYPE_CHECKING:  # layouts of plugins are loaded while the settings are
    from vita_train.recipe.model import ModelSpec

_SAME: tuple[Rule, ...] = ((r"(.+)", r"\1", ""),)

#: The speech encoder, below ``encoder.``.
_ENCODER: tuple[Rule, ...] = (
    (r"global_cmvn\.(mean|istd)", r"global_cmvn.\1", ""),
    (r"subsampling\.conv\.([02])\.(\w+)", r"enc.0.core.conv.\1.\2", ""),
    (r"subsampling\.out\.(\w+)", r"enc.0.core.out.0.\1", ""),
    (r"embed\.([01])\.(\w+)", r"enc.1.embed.\1.\2", ""),
    (
        r"encoders\.(\d+)\.(self_attn\.(?:linear_(?:q|k|v|out|pos)\.\w+|pos_bias_[uv])|"
        r"feed_forward\.w_[12]\.\w+|norm[12]\.\w+)",
        r"enc.1.encoders.\1.\2",
        "",
    ),
    (r"after_norm\.(\w+)", r"enc.1.after_norm.\1", ""),
)
_ADAPTERS: dict[str, tuple[Rule, ...]] = {
    "subsampling": (
        (r"conv\.(\w+)", r"conv1d2.\1", ""),
        (r"norm\.(\w+)", r"bn2.\1", ""),
        (r"project\.(\w+)", r"project.\1", ""),
    ),
    "cnn": (
        (r"conv([12])\.(\w+)", r"conv1d\1.\2", ""),
        (r"norm([12])\.(\w+)", r"bn\1.\2", ""),
        (r"project\.(\w+)", r"project.\1", ""),
    ),
    "linear": ((r"project\.(\w+)", r"adpter.\1", ""),),
}
#: Projectors whose tensors the public code names otherwise; all others are named alike.
_PROJECTORS: dict[str, tuple[Rule, ...]] = {
    "ldp": (
        # Theirs begins with modules without weights, so its numbers run one ahead
        (r"mlp\.0\.(\w+)", r"model.mlp.1.\1", ""),
        (r"mlp\.2\.(\w+)", r"model.mlp.3.\1", ""),
        *(
            rule
            for here, there in (("0", "1"), ("1", "2"))
            for rule in (
                (rf"blocks\.{here}\.depthwise\.(\w+)", rf"model.mb_block.{there}.block.0.0.\1", ""),
                (rf"blocks\.{here}\.norm1\.(\w+)", rf"model.mb_block.{there}.block.0.1.\1", ""),
                (
                    rf"blocks\.{here}\.excite\.(fc[12])\.(\w+)",
                    rf"model.mb_block.{there}.block.1.\1.\2",
                    "",
                ),
                (rf"blocks\.{here}\.pointwise\.(\w+)", rf"model.mb_block.{there}.block.2.0.\1", ""),
                (rf"blocks\.{here}\.norm2\.(\w+)", rf"model.mb_block.{there}.block.2.1.\1", ""),
            )
        ),
    ),
}
_VISION_TRANSFORMERS: tuple[Rule, ...] = ((r"model\.(.+)", r"\1", ""),)

#: Modules of the released VITA-1.5 checkpoint and what stands before their names in it. ``adpter``
#: is how the release spells it; the language model has no prefix.
_VITA: dict[str, str] = {
    "llm": "",
    "vision": "model.vision_tower.vision_tower.",
    "projector": "model.mm_projector.",
    "audio_encoder": "model.audio_encoder.encoder.",
    "audio_adapter": "model.audio_encoder.adpter.",
    "audio_prompt": "model.audio_encoder.prompt_embeddings.",
    "state_head": "predictor_head.",
}
VITA_MODULES: tuple[str, ...] = tuple(name for name in MODULES if name in _VITA)
#: What only the language model's names begin with there.
_LANGUAGE = r"(lm_head|model\.(layers|embed_tokens|norm))\."

LocateTensor = Callable[[str, str, "ModelSpec"], TensorLocation | None]
"""(module, name of ours, the model it is part of) to where it lies, or None if the layout has no
place for it."""


def vita_location(module: str, name: str, spec: ModelSpec) -> TensorLocation | None:
    """Return where a tensor lies in the released VITA-1.5 layout."""
    if module in SPEECH_MODULES:
        return placed(SPEECH_PREFIXES[module], speech_rules(module, spec), name)
    rules = {
        "vision": INTERNVIT_RULES,
        "projector": _PROJECTORS.get(spec.projector.kind, _SAME),
        "audio_encoder": _ENCODER,
        "audio_adapter": _ADAPTERS[spec.audio_adapter.kind],
    }
    return placed(_VITA[module], rules.get(module, _SAME), name) if module in _VITA else None


def vita_owner(name: str) -> str:
    """Return the module whose place a name of the released layout lies in; empty for none's."""
    # The longest prefix decides: one may begin another
    found = max(
        (
            module
            for module, prefix in (_VITA | SPEECH_PREFIXES).items()
            if prefix and name.startswith(prefix)
        ),
        key=lambda module: len((_VITA | SPEECH_PREFIXES)[module]),
        default="",
    )
    return found or ("llm" if re.match(_LANGUAGE, name) else "")


def internvit_location(module: str, name: str, spec: ModelSpec) -> TensorLocation | None:
    """Return where a tensor of the tower lies in InternViT's original layout: query, key and value
    are one tensor."""
    return placed("", INTERNVIT_RULES if module == "vision" else (), name)


def internvl_vision_location(module: str, name: str, spec: ModelSpec) -> TensorLocation | None:
    """Return where a tensor of the tower lies in a checkpoint of transformers'
    InternVLVisionModel."""
    return placed("", _VISION_TRANSFORMERS if module == "vision" else (), name)


def llm_location(module: str, name: str, spec: ModelSpec) -> TensorLocation | None:
    """Return where a tensor of the language model lies in a checkpoint of transformers: it has our
    names."""
    return placed("", _SAME if module == "llm" else (), name)


def flat_location(module: str, name: str, spec: ModelSpec) -> TensorLocation | None:
    """Return where a tensor lies in a directory of ours for transformers: the module's name stands
    before."""
    return TensorLocation(f"{module}.{name}")
