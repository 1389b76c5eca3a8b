"""Settings of someone's config.json that change what weights compute and that no shape tells."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vita_train.recipe.audio import SubsamplingAdapterSpec
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.towers.internvit import InternVitSpec
from vita_train.weights.formats.import_report import shown

#: Fields of a language model's configuration that must be those of the recipe.
_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "rms_norm_eps",
    "tie_word_embeddings",
    "hidden_act",
)


def config_problems(found: dict[str, Any], ours: Any, layout: str) -> list[str]:
    """Return where a config.json contradicts the language model that the recipe describes.

    Args:
        found: the content of config.json.
        ours: transformers' configuration of the recipe's model.
        layout: of the source; ``llm`` compares ``model_type`` too, which others name after
            themselves.
    """
    pairs = [(name, found.get(name), getattr(ours, name, None)) for name in _FIELDS]
    pairs.append(
        ("rope_theta", _rope(found).get("rope_theta"), _rope(ours.to_dict()).get("rope_theta"))
    )
    pairs.append(
        ("rope_type", _rope(found).get("rope_type"), _rope(ours.to_dict()).get("rope_type"))
    )
    if layout == "llm":
        pairs.append(("model_type", found.get("model_type"), ours.model_type))
    return [
        f"{name} is {shown(theirs)} in config.json and {mine} in the recipe"
        for name, theirs, mine in pairs
        if theirs is not None and mine is not None and theirs != mine
    ]


def vita_differences(spec: ModelSpec, modules: Collection[str]) -> list[str]:
    """Return where a recipe's modules compute something else than those of VITA-1.5 with the same
    weights."""
    settings = [
        ("vision", "vision.kind", spec.vision.kind, "internvit"),
        ("projector", "projector.kind", spec.projector.kind, "mlp2x_gelu"),
        ("audio_encoder", "audio_encoder.relative_shift", spec.audio_encoder.relative_shift, False),
        ("audio_adapter", "audio_adapter.kind", spec.audio_adapter.kind, "subsampling"),
    ]
    if isinstance(spec.vision, InternVitSpec):
        settings += [
            ("projector", "vision.feature_scale", spec.vision.feature_scale, 0.5),
            ("projector", "vision.shuffle", spec.vision.shuffle, 2),
        ]
    if isinstance(spec.audio_adapter, SubsamplingAdapterSpec):
        settings += [
            ("audio_adapter", f"audio_adapter.{name}", getattr(spec.audio_adapter, name), theirs)
            for name, theirs in (("stride", 2), ("norm", "layer"), ("activation", "gelu"))
        ]
    return [
        f"model.{name} is {ours}, not {theirs}"
        for module, name, ours, theirs in settings
        if module in modules and ours != theirs
    ]


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings, wherever the version that wrote the file put them."""
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(nested, dict):
        return {}
    theta = nested.get("rope_theta", config.get("rope_theta"))
    return {"rope_theta": theta, "rope_type": nested.get("rope_type", nested.get("type"))}
