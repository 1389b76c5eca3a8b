"""Vision towers: one interface, pixels in, tokens out; which one is the recipe's
``model.vision.kind``."""

from __future__ import annotations

from vita_train.models.vision.tower import VisionTower
from vita_train.plugins import named
from vita_train.recipe.tower import TOWERS, TowerSpec

__all__ = ["VisionTower", "build_vision", "load_vision"]


def build_vision(spec: TowerSpec) -> VisionTower:
    """Return the tower of a specification, randomly initialised."""
    tower: VisionTower = named(TOWERS[spec.kind].implementation)(spec)
    return tower


def load_vision(spec: TowerSpec, source: str) -> VisionTower:
    """Return the tower with the weights of a directory, file or hub name, in its released tensor
    names.

    Raises:
        CheckpointError: nothing readable is there, or its tensors are not those of the
            specification.
    """
    from vita_train.weights.vision_release import read_tower

    tower = build_vision(spec)
    tower.model.load_state_dict(read_tower(source, spec, tower.model.state_dict()))
    return tower
