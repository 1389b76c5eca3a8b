"""Mixtures of data: which datasets a stage trains on, and how much of each, as versioned manifests.

A stage says ``data: vila-1.5/pretrain`` in place of a map, or names with shares joined by ``+``,
manifests among them: ``vila-1.5/pretrain+mine@0.5``. The recipe that a run keeps holds the map that
came of it.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from vita_train.errors import RecipeError
from vita_train.recipe.base import Strict
from vita_train.recipe.yaml_tree import parse_yaml

_HERE = Path(__file__).parent


class Ingredient(Strict):
    """A dataset of a mixture."""

    entries: tuple[str, ...] = ()
    """Entries of the catalogue that it is made of; none where the catalogue has none."""
    how: str = ""
    """Commands that make its records of them; none are needed where it is empty."""


class Mixture(Strict):
    """A manifest: the datasets of every stage, by the names that a registry gives them."""

    name: str
    version: int = Field(ge=1, le=10_000)
    """Goes up with every change."""
    about: str
    stages: dict[str, tuple[str, ...]]
    """Names of datasets, ``name@share`` where a part is taken."""
    datasets: dict[str, Ingredient]
    """Every name in ``stages``."""

    @model_validator(mode="after")
    def _described(self) -> Mixture:
        named = {split_share(part)[0] for parts in self.stages.values() for part in parts}
        if odd := sorted(named ^ set(self.datasets)):
            raise ValueError(f"stages and datasets do not name the same datasets: {odd[0]}")
        return self


def mixture_names() -> list[str]:
    """Return the names of the shipped manifests, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def load_mixture(name: str) -> Mixture:
    """Return a shipped manifest.

    Raises:
        ValueError: there is none of this name; the nearest one is named.
        RecipeError: it is damaged.
    """
    if name not in mixture_names():
        near = get_close_matches(name, mixture_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(mixture_names())}"
        raise ValueError(f"there is no mixture {name!r}; {hint}")
    path = _HERE / f"{name}.yaml"
    try:
        return Mixture.model_validate(parse_yaml(path.read_text(encoding="utf-8"), path.name).value)
    except ValidationError as error:
        raise RecipeError(
            f"mixture is not valid: {error.errors()[0]['msg']}",
            code="VT-RECIPE-092",
            where=path.name,
            remedy="install the package again",
        ) from error


def split_share(part: str) -> tuple[str, float]:
    """Return the name and the share of ``name@share``; 1 where none is given.

    Raises:
        ValueError: the share is no number above 0, or the name is empty.
    """
    name, at, share = part.strip().partition("@")
    try:
        weight = float(share) if at else 1.0
    except ValueError:
        weight = 0.0
    if not name or not weight > 0:
        raise ValueError(f"{part.strip()!r} is no dataset with a share: write name@0.5, or name")
    return name, weight


def expand(data: Any) -> Any:
    """Return a text of names joined by ``+`` as weights by dataset, manifests replaced by what they
    name; what is no text as it is.

    Raises:
        ValueError: a manifest or its stage does not exist, a share is no number, or a dataset is
            named twice.
    """
    if not isinstance(data, str):
        return data
    found: dict[str, float] = {}
    for part in data.split("+"):
        name, share = split_share(part)
        for member, weight in _members(name).items():
            if member in found:
                raise ValueError(f"{data!r} names {member} twice: give one share")
            found[member] = share * weight
    return found


def _members(name: str) -> dict[str, float]:
    manifest, slash, stage = name.partition("/")
    if not slash:
        return {name: 1.0}
    mixture = load_mixture(manifest)
    if stage not in mixture.stages:
        raise ValueError(
            f"mixture {manifest} has no stage {stage!r}; there are {', '.join(mixture.stages)}"
        )
    return dict(map(split_share, mixture.stages[stage]))
