"""Settings of someone's config.json that change what weights compute and that no shape tells."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vita_train.recipe.model import ModelSpec
from vita_train.recipe.towers.internvit import InternVitSpec
from vita_train.weights.formats.stated import Stated
from vita_train.weights.formats.train_yaml import differences

FILE = "config.json"
#: Fields of a language model's configuration that must be those of the recipe, and their keys in
#: ``model.llm``.
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "rms_norm_eps": "rms_norm_eps",
    "tie_word_embeddings": "tie_embeddings",
    "hidden_act": "",
    "num_local_experts": "moe.num_local_experts",
    "num_experts_per_tok": "moe.num_experts_per_tok",
}
_PREFIX = "model.llm."


def llm_stated(found: dict[str, Any], ours: Any, layout: str) -> list[Stated]:
    """Return what a config.json says of its language model, beside what the recipe describes.

    Args:
        found: the content of config.json.
        ours: transformers' configuration of the recipe's model.
        layout: of the source; ``llm`` compares ``model_type`` too, which others name after
            themselves.
    """
    here, there = _rope(ours.to_dict()), _rope(found)
    fields = [
        # An empty key: the family sets it, no setting of the recipe does
        (name, found.get(name), getattr(ours, name, None), key and _PREFIX + key)
        for name, key in _FIELDS.items()
    ]
    fields.append(
        ("rope_theta", there.get("rope_theta"), here.get("rope_theta"), f"{_PREFIX}rope_theta")
    )
    fields.append(("rope_type", there.get("rope_type"), here.get("rope_type"), ""))
    fields.append(("factor", there.get("factor"), here.get("factor"), f"{_PREFIX}rope_factor"))
    if layout == "llm":
        fields.append(("model_type", found.get("model_type"), ours.model_type, ""))
    # Qwen writes a window also where use_sliding_window says that it is not used
    window = found.get("sliding_window") if found.get("use_sliding_window", True) else None
    if isinstance(window, int) and window < ours.max_position_embeddings:
        fields.append(
            (
                "sliding_window",
                window,
                ours.max_position_embeddings,
                f"{_PREFIX}max_positions",
            )
        )
    return [
        Stated("llm", FILE, name, theirs, mine, key)
        for name, theirs, mine, key in fields
        if theirs is not None and mine is not None
    ]


def vita_stated(found: dict[str, Any], model: ModelSpec) -> list[Stated]:
    """Return what the config.json of a release says of the parts around the language model, beside
    the recipe's."""
    kind, ours = found.get("mm_projector_type"), model.projector.kind
    if kind is None:  # of a base, say, that an adapter and a projector belong to
        return []
    if isinstance(kind, str) and kind.startswith("spp"):  # one version's name is inside it
        kind = next((f"spp_{name}" for name in ("v1", "v2", "v3") if name in kind), kind)
    return [Stated("projector", FILE, "mm_projector_type", kind, ours, "model.projector.kind")]


def llava_stated(found: dict[str, Any], model: ModelSpec) -> list[Stated]:
    """Return what the config.json of a LLaVA says of the parts around the language model, beside
    the recipe's: in transformers' words or in the repository's."""
    layer = getattr(model.vision, "feature_layer", None)
    projector = "model.projector.kind"
    # transformers' words: default drops the class token, full keeps all there is
    strategy = "default" if model.vision.class_tokens else "full"
    fields: list[tuple[str, str, object, str]] = [
        ("vision", "vision_feature_layer", layer, "model.vision.feature_layer"),
        ("vision", "vision_feature_select_strategy", strategy, ""),
        ("vision", "mm_vision_select_layer", layer, "model.vision.feature_layer"),
        ("vision", "mm_vision_select_feature", "patch", ""),
        ("projector", "projector_hidden_act", "gelu", ""),
        ("projector", "mm_projector_type", model.projector.kind, projector),
    ]
    return [
        Stated(module, FILE, name, found[name], ours, key)
        for module, name, ours, key in fields
        if found.get(name) is not None
    ]


def vita_differences(
    spec: ModelSpec, modules: Collection[str], *, shapes: bool = False
) -> list[str]:
    """Return where a recipe's modules compute something else than those of VITA-1.5 with the same
    weights, whatever the settings that travel with them; with ``shapes``, also where their shapes
    cannot be had there."""
    settings: list[tuple[str, str, object, object]] = [
        ("vision", "vision.kind", spec.vision.kind, "internvit")
    ]
    if isinstance(spec.vision, InternVitSpec):
        settings += [
            ("projector", "vision.feature_scale", spec.vision.feature_scale, 0.5),
            ("projector", "vision.shuffle", spec.vision.shuffle, 2),
        ]
    found = [
        f"model.{name} is {ours}, not {theirs}"
        for module, name, ours, theirs in settings
        if module in modules and ours != theirs
    ]
    if "projector" in modules and not spec.projector.declared.in_vita:
        found.append(f"model.projector.kind is {spec.projector.kind}, which VITA's code lacks")
    return found + differences(spec, modules, shapes=shapes)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings, wherever the version that wrote the file put them."""
    # rope_parameters since transformers 5, rope_scaling beside rope_theta before
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(nested, dict):
        return {}
    theta = nested.get("rope_theta", config.get("rope_theta"))
    return {
        "rope_theta": theta,
        "rope_type": nested.get("rope_type", nested.get("type")),
        "factor": nested.get("factor"),
    }
