"""From a name or a file to a `Recipe`: strict, with the file and line of whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vita_train.errors import RecipeError
from vita_train.recipe.ladder import stage_id
from vita_train.recipe.overrides import apply_overrides
from vita_train.recipe.presets import preset_names, preset_path
from vita_train.recipe.schema import Recipe
from vita_train.recipe.shape import Shape, fields_of, root_shape, shape_of
from vita_train.recipe.yaml_tree import Path, Tree, dump_yaml, parse_yaml

#: Most problems told at once.
_MOST_PROBLEMS = 10


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe, resolved in full.

    Args:
        name_or_path: a shipped recipe's name, a YAML file, or (more than one line) the YAML itself.
        overrides: settings ``a.b=c`` laid over it, in order.

    Raises:
        RecipeError: there is no such recipe, or it is wrong somewhere; each problem with its file and line.
    """
    if "\n" in name_or_path:
        return parse_recipe(name_or_path, "recipe", overrides)
    preset = preset_path(name_or_path)
    path = preset or FilePath(name_or_path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _unknown(name_or_path) from None
    except UnicodeDecodeError as error:
        raise RecipeError("is not a text file in UTF-8", where=str(path)) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return parse_recipe(text, path.name if preset else name_or_path, overrides)


def parse_recipe(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe a YAML text describes; `source` is what to call it in messages."""
    tree = parse_yaml(text, source)
    if tree.value is None:
        tree.value = {}
    if not isinstance(tree.value, dict):
        raise RecipeError("a recipe is a mapping of settings", where=tree.place(()))
    _name_stages(tree)
    apply_overrides(tree, overrides)
    try:
        # JSON's rules are the strict ones that know lists for tuples and refuse text for numbers.
        return Recipe.model_validate_json(json.dumps(tree.value), strict=True)
    except ValidationError as error:
        raise _told(error, tree) from error


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with every setting in it; `load_recipe` reads it back as the same recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _name_stages(tree: Tree) -> None:
    """Give stages their canonical ids, so that settings and messages agree on them."""
    stages = tree.value.get("stages")
    if not isinstance(stages, dict):
        return
    named: dict[str, Any] = {}
    for name, spec in stages.items():
        place = tree.place(("stages", name))
        try:
            key = stage_id(name)
        except RecipeError as error:
            raise RecipeError(error.what, where=place, remedy=error.remedy) from None
        if key in named:
            raise RecipeError(f"stage {key} is given twice, once as {name!r}", where=place,
                              remedy="remove one of them")
        named[key] = spec
        if key != name:
            old, new = ("stages", name), ("stages", key)
            tree.places.update({new + path[2:]: where for path, where in tree.places.items() if path[:2] == old})
    tree.value["stages"] = named


def _unknown(name: str) -> RecipeError:
    if "/" in name or name.endswith((".yaml", ".yml")):
        return RecipeError("there is no such recipe file", where=name)
    near = get_close_matches(name, preset_names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"shipped recipes are {', '.join(preset_names())}"
    return RecipeError(f"there is no recipe {name!r}", remedy=f"{hint}; a file is given by its path")


def _told(error: ValidationError, tree: Tree) -> RecipeError:
    problems = sorted((_problem(detail, tree) for detail in error.errors(include_url=False)),
                      key=lambda problem: _order(problem.where))
    if len(problems) == 1:
        return problems[0]
    shown = [str(problem) for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    return RecipeError("\n  ".join([f"{len(problems)} problems", *shown]), where=tree.source)


def _order(where: str) -> tuple[str, int]:
    source, _, line = where.rpartition(":")
    return (source, int(line)) if line.isdigit() else (where, 0)


def _problem(detail: ErrorDetails, tree: Tree) -> RecipeError:
    path, shape = _locate(detail["loc"], tree.value)
    name = ".".join(map(str, path))
    where = tree.place(path)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path, shape, where)
    if kind == "missing":
        return RecipeError(f"{name} is missing", where=tree.place(path[:-1]), remedy="add it")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        inner = shape_of(shape, str(path[-1])) if shape is not None else None
        kinds = [str(_kind_of(model)) for model in inner.models] if inner is not None else []
        return RecipeError(f"{name}.kind must be one of {', '.join(kinds)}", where=tree.place((*path, "kind")))
    if kind == "json_invalid":
        return RecipeError("holds characters that are no text", where=tree.source)
    message = detail["msg"].removeprefix("Value error, ").replace("an object", "a mapping")
    if kind == "value_error":
        return RecipeError(f"{name}: {message}" if name else message, where=where)
    given = json.dumps(detail["input"], ensure_ascii=False) if not isinstance(detail["input"], dict) else "a mapping"
    return RecipeError(f"{name}: {message[0].lower() + message[1:]}, not {given[:60]}", where=where,
                       remedy=_quote_hint(kind))


def _quote_hint(kind: str) -> str:
    return "quote it if it is meant as text" if kind == "string_type" else ""


def _unknown_key(path: Path, shape: Shape | None, where: str) -> RecipeError:
    known = fields_of(shape)
    key, inside = str(path[-1]), ".".join(map(str, path[:-1]))
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
    return RecipeError(f"unknown key {key!r}{f' in {inside}' if inside else ''}", where=where, remedy=hint)


def _locate(loc: tuple[str | int, ...], value: Any) -> tuple[Path, Shape | None]:
    """Return the path in the file that an error speaks of, and the shape of what stands around it.

    Errors inside a choice of models name the choice as well; those names are not keys of the file.
    """
    path: list[str | int] = []
    shape: Shape | None = root_shape()
    around: Shape | None = shape
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        chosen = shape is not None and len(shape.models) > 1
        if chosen and shape is not None and not (isinstance(value, dict) and part in value and last):
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
