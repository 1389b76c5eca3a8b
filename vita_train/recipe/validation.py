"""A YAML tree to a strict model, or every problem it has with its file and line."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vita_train.errors import RecipeError
from vita_train.recipe.renamed import renamed_key
from vita_train.recipe.shape import Shape, fields_of, shape_of
from vita_train.recipe.yaml_tree import Path, Tree

#: Most problems reported at once.
_MOST_PROBLEMS = 10

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], tree: Tree) -> Model:
    """Return the model a tree describes.

    Raises:
        RecipeError: unknown keys (with the nearest known one), missing or wrong values,
            contradictions.
    """
    try:
        # JSON's rules are the strict ones that know lists for tuples and refuse text for numbers.
        return model.model_validate_json(json.dumps(tree.value), strict=True)
    except ValidationError as error:
        raise _all_problems(error, tree, model) from error


def _all_problems(error: ValidationError, tree: Tree, model: type[BaseModel]) -> RecipeError:
    problems = sorted(
        (_problem(detail, tree, model) for detail in error.errors(include_url=False)),
        # By line, as a reader goes through the file
        key=lambda problem: _order(problem.where),
    )
    if len(problems) == 1:
        return problems[0]
    shown = [str(problem) for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    return RecipeError(
        "\n  ".join([f"{len(problems)} problems", *shown]), code="VT-RECIPE-043", where=tree.source
    )


def _order(where: str) -> tuple[str, int]:
    source, _, line = where.rpartition(":")
    return (source, int(line)) if line.isdigit() else (where, 0)


def _problem(detail: ErrorDetails, tree: Tree, model: type[BaseModel]) -> RecipeError:
    path, shape = _locate(detail["loc"], tree.value, model)
    name = ".".join(map(str, path))
    where = tree.location(path)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path, shape, where)
    if kind == "missing":
        return RecipeError(
            f"{name} is missing",
            code="VT-RECIPE-044",
            where=tree.location(path[:-1]),
            remedy="add it",
        )
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        inner = shape_of(shape, str(path[-1])) if shape is not None else None
        kinds = [str(_kind_of(model)) for model in inner.models] if inner is not None else []
        return RecipeError(
            f"{name}.kind must be one of {', '.join(kinds)}",
            code="VT-RECIPE-045",
            where=tree.location((*path, "kind")),
        )
    if kind == "json_invalid":
        return RecipeError(
            "holds characters that are no text", code="VT-RECIPE-046", where=tree.source
        )
    # JSON's word for what a recipe calls a mapping
    message = re.sub(r"\ban object\b", "a mapping", detail["msg"].removeprefix("Value error, "))
    if kind == "value_error":
        return RecipeError(
            f"{name}: {message}" if name else message, code="VT-RECIPE-047", where=where
        )
    given = (
        json.dumps(detail["input"], ensure_ascii=False)
        if not isinstance(detail["input"], dict)
        else "a mapping"
    )
    return RecipeError(
        f"{name}: {message[0].lower() + message[1:]}, not {given[:60]}",
        code="VT-RECIPE-048",
        where=where,
        remedy=_quote_hint(kind),
    )


def _quote_hint(kind: str) -> str:
    return "quote it if it is meant as text" if kind == "string_type" else ""


def _unknown_key(path: Path, shape: Shape | None, where: str) -> RecipeError:
    known = fields_of(shape)
    key, inside = str(path[-1]), ".".join(map(str, path[:-1]))
    if (new := renamed_key(path)) is not None and new in known:
        return RecipeError(
            f"{'.'.join(map(str, path))} is called {new} now",
            code="VT-RECIPE-049",
            where=where,
            remedy=f"write {new}; vita-train recipe upgrade FILE rewrites a whole file",
        )
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
    return RecipeError(
        f"unknown key {key!r}{f' in {inside}' if inside else ''}",
        code="VT-RECIPE-050",
        where=where,
        remedy=hint,
    )


def _locate(
    loc: tuple[str | int, ...], value: Any, model: type[BaseModel]
) -> tuple[Path, Shape | None]:
    """Return the path in the file that an error speaks of, and the shape of what stands around it.

    Errors inside a choice of models name the choice as well; those names are not keys of the file.
    """
    path: list[str | int] = []
    shape: Shape | None = Shape("model", (model,))
    around: Shape | None = shape
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        chosen = shape is not None and len(shape.models) > 1
        if (
            chosen
            and shape is not None
            and not (isinstance(value, dict) and part in value and last)
        ):
            # pydantic puts the chosen kind into the path of an error, and the file has no such
            # level
            by_kind = [model for model in shape.models if _kind_of(model) == part]
            if by_kind:
                shape = Shape("model", tuple(by_kind))
                continue
        around = shape
        path.append(part)
        value = value[part] if _has(value, part) else None
        shape = shape_of(shape, str(part)) if shape is not None else None
    return tuple(path), around


def _kind_of(model: Any) -> Any:
    field = model.model_fields.get("kind")
    return field.default if field is not None else None


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)
