"""In which settings two recipes differ."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from vita_train.errors import RecipeError
from vita_train.recipe.aliases import stage_name
from vita_train.recipe.schema import Recipe

#: Stands for a setting that one of the recipes does not have.
ABSENT = "(absent)"


class Difference(NamedTuple):
    """A setting with its values in two recipes, as JSON, or `ABSENT`."""

    setting: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.first} -> {self.second}"


def differences(first: Recipe, second: Recipe, *, stage: str = "") -> list[Difference]:
    """Return every setting that differs, sorted by name; nothing for a recipe and itself.

    Args:
        first, second: the recipes.
        stage: leave out all other stages; empty compares all.

    Raises:
        RecipeError: one of the recipes does not have the stage.
    """
    old, new = (_flatten(_of_stage(recipe, stage)) for recipe in (first, second))
    filled = {parent for key in {*old, *new} for parent in _parents(key)}
    return [
        Difference(key, old.get(key, ABSENT), new.get(key, ABSENT))
        for key in sorted({*old, *new} - filled)
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    ]


def _of_stage(recipe: Recipe, stage: str) -> dict[str, Any]:
    values = recipe.model_dump(mode="json")
    if not stage:
        return values
    try:
        key = stage_name(stage, recipe.stages)
    except RecipeError as error:
        raise RecipeError(
            error.what, code=error.code, where=recipe.name, remedy=error.remedy
        ) from None
    return {**values, "stages": {key: values["stages"][key]}}


def _parents(key: str) -> list[str]:
    """Return the mappings that a setting stands in: one that is empty in the other recipe is no
    change of its own."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings by dotted path; lists and empty mappings are leaves."""
    if not isinstance(value, dict) or not value:
        return {prefix: json.dumps(value, ensure_ascii=False)}
    parts = [
        _flatten(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()
    ]
    return {key: leaf for part in parts for key, leaf in part.items()}
