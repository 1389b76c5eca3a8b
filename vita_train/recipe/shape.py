"""The recipe's shape as its models declare it: which keys may stand where."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from vita_train.recipe.schema import Recipe


@dataclass(frozen=True)
class Shape:
    """What may stand at one place of a recipe."""

    kind: Literal["model", "mapping", "value"]
    models: tuple[type[BaseModel], ...] = ()
    """model: those it may be (several for a choice by ``kind``)."""
    inner: Shape | None = None
    """mapping: what each entry is."""


def root_shape() -> Shape:
    """Return the shape of a whole recipe."""
    return Shape("model", (Recipe,))


def shape_of(shape: Shape, key: str) -> Shape | None:
    """Return the shape of what stands under a key, or None if there is no such key."""
    if shape.kind == "mapping":
        return shape.inner
    for model in shape.models:
        if key in model.model_fields:
            return _shape(model.model_fields[key].annotation)
    return None


def fields_of(shape: Shape | None) -> tuple[str, ...]:
    """Return the keys a place has by declaration; none for mappings with free names."""
    models = shape.models if shape is not None else ()
    return tuple(dict.fromkeys(name for model in models for name in model.model_fields))


def _shape(annotation: Any) -> Shape:
    # Bounds and discriminators say nothing of the keys below
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Shape("model", (annotation,))
    if get_origin(annotation) is dict:
        return Shape("mapping", inner=_shape(get_args(annotation)[1]))
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [_shape(part) for part in get_args(annotation)]
        models = tuple(model for part in parts for model in part.models)
        # X | None is X here: what is left out has no keys
        return Shape("model", models) if models else Shape("value")
    return Shape("value")
