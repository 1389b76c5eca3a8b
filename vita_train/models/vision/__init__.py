"""Vision towers: one interface, pixels in, tokens out; which one is the recipe's ``model.vision.kind``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vita_train.models.vision.clip import ClipTower
from vita_train.models.vision.eva_clip import EvaClipTower
from vita_train.models.vision.internvit import InternVitTower
from vita_train.models.vision.siglip import SiglipTower
from vita_train.models.vision.tower import VisionTower
from vita_train.recipe.vision import VisionSpec

__all__ = ["VisionTower", "build_vision", "load_vision"]

_TOWERS: dict[str, Callable[[Any], VisionTower]] = {
    "internvit": InternVitTower,
    "siglip": SiglipTower,
    "clip": ClipTower,
    "eva_clip": EvaClipTower,
}


def build_vision(spec: VisionSpec) -> VisionTower:
    """Return the tower of a specification, randomly initialised."""
    return _TOWERS[spec.kind](spec)


def load_vision(spec: VisionSpec, source: str) -> VisionTower:
    """Return the tower with the weights of a directory, file or hub name, in its released tensor names.

    Raises:
        CheckpointError: nothing readable is there, or its tensors are not those of the specification.
    """
    from vita_train.weights.vision_release import read_tower

    tower = build_vision(spec)
    tower.model.load_state_dict(read_tower(source, spec, tower.model.state_dict()))
    return tower
