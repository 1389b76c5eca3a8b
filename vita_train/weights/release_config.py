"""What a release says of its tower beside its tensors, and no tensor's shape would betray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita_train.recipe.tower import TOWERS, TowerSpec


def description_faults(directory: Path, spec: TowerSpec) -> list[str]:
    """Return where ``config.json`` and ``preprocessor_config.json`` contradict the recipe; nothing
    if they are absent.

    Compared are the heads, the activation, and the mean and deviation of the pixels: a wrong one
    loads and runs, and gives wrong features.
    """
    config = _read(directory / "config.json")
    types = [known for name in TOWERS for known in TOWERS[name].release.model_types]
    if "vision_config" in config:
        config = config["vision_config"] if isinstance(config["vision_config"], dict) else {}
    elif config.get("model_type") not in types:
        config = {}
    stated = [
        ("config.json", config, "num_attention_heads", spec.num_heads),
        ("config.json", config, "hidden_act", spec.released_activation),
    ]
    pixels = _read(directory / "preprocessor_config.json")
    stated += [
        ("preprocessor_config.json", pixels, "image_mean", list(spec.mean)),
        ("preprocessor_config.json", pixels, "image_std", list(spec.std)),
    ]
    return [
        f"{key} is {there[key]} in {file} and {ours} in the recipe"
        for file, there, key, ours in stated
        if ours and there.get(key) not in (None, ours)
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the tensors alone have to do
        return {}
    return value if isinstance(value, dict) else {}
