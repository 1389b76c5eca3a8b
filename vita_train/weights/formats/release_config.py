"""What a release says of its tower beside its tensors, and no tensor's shape would betray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita_train.recipe.tower import TOWERS, TowerSpec
from vita_train.weights.formats.stated import Stated, contradictions

_KEY = "model.vision."
#: Words of a config.json for something that no tower here does, and what it says where that is not
#: done.
_NOT_DONE = {"qk_normalization": False, "use_qk_norm": False, "norm_type": "layer_norm"}


def description_faults(directory: Path, spec: TowerSpec) -> list[str]:
    """Return where ``config.json`` and ``preprocessor_config.json`` contradict the recipe; nothing
    if they are absent.

    Compared are the heads, the activation, the norms, the sizes of tile and patch, and the mean and
    deviation of the pixels: a wrong one loads and runs, and gives wrong features.
    """
    config = _read(directory / "config.json")
    types = [known for name in TOWERS for known in TOWERS[name].release.model_types]
    # The tower's part of a larger model's config; the rest speaks of other things
    if "vision_config" in config:
        config = config["vision_config"] if isinstance(config["vision_config"], dict) else {}
    # A config of something else, the language model say, whose fields have the same names
    elif config.get("model_type") not in types:
        config = {}
    activation = f"{_KEY}activation" if "activation" in type(spec).model_fields else ""
    fields: list[tuple[str, object, str]] = [
        ("num_attention_heads", spec.num_heads, f"{_KEY}num_heads"),
        ("hidden_act", spec.released_activation, activation),
        ("layer_norm_eps", spec.norm_eps, ""),
        ("image_size", spec.image_size, f"{_KEY}image_size"),
        ("patch_size", spec.patch_size, f"{_KEY}patch_size"),
        *((name, ours, "") for name, ours in _NOT_DONE.items()),
    ]
    pixels = _read(directory / "preprocessor_config.json")
    means: list[tuple[str, object, str]] = [
        ("image_mean", list(spec.mean), f"{_KEY}mean"),
        ("image_std", list(spec.std), f"{_KEY}std"),
        ("size", spec.image_size, f"{_KEY}image_size"),
        ("crop_size", spec.image_size, f"{_KEY}image_size"),
    ]
    stated = [
        Stated("vision", file, name, _side(there[name]), ours, key)
        for file, there, entries in (
            ("config.json", config, fields),
            ("preprocessor_config.json", pixels, means),
        )
        for name, ours, key in entries
        if ours not in (None, "") and there.get(name) is not None
    ]
    return contradictions(stated, ("vision",))


def _side(value: Any) -> Any:
    """Return the side of a square that is told as one number, as two equal ones, or by name; any
    other value as it is."""
    if isinstance(value, dict):
        value = list(value.values())
    if (
        isinstance(value, list)
        and value
        and len(value) <= 2
        and value.count(value[0]) == len(value)
    ):
        return value[0]
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the tensors alone have to do
        return {}
    return value if isinstance(value, dict) else {}
