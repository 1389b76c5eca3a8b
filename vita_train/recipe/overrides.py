"""Settings from the command line: ``a.b=c`` laid over what the file says.

Names may contain dots (stage 2.1b, measure vqa.test_seen.accuracy), so a path is read along the
recipe's own shape; quotes around a name work as well. ``null`` for an entry of a mapping such as
``stages`` or ``data`` removes it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from vita_train.errors import RecipeError
from vita_train.printable import printable
from vita_train.recipe.aliases import STAGE_ALIASES, stage_name
from vita_train.recipe.shape import Shape, fields_of, root_shape, shape_of
from vita_train.recipe.yaml_tree import Path, Tree, parse_yaml

_TOKEN = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^.'"]+))\s*(?:\.|$)""")


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> None:
    """Lay settings over a tree, in order.

    Raises:
        RecipeError: a setting is not ``a.b=c``, its path leads through something that is not a
            mapping, or it undoes one before it.
    """
    given: dict[Path, tuple[str, Any]] = {}
    for text in overrides:
        source = f"--set {printable(text)}"
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise RecipeError(
                "is not a setting", code="VT-RECIPE-036", where=source, remedy="write --set a.b=c"
            )
        stages = tree.value.get("stages") if isinstance(tree.value, dict) else None
        path = resolve_path(name.strip(), source, tuple(stages) if isinstance(stages, dict) else ())
        parsed = parse_yaml(value, source, path)
        _refuse_undone(given, path, parsed.value, source)
        given[path] = text, parsed.value
        _set(tree, path, parsed.value, source)


def _refuse_undone(given: dict[Path, tuple[str, Any]], path: Path, value: Any, source: str) -> None:
    """Refuse a setting that would silently undo one before it; the same one again does not."""
    for before, (text, earlier) in given.items():
        # repr, because 1, 1.0 and true are equal and not the same setting
        if before[: len(path)] == path and (before != path or repr(earlier) != repr(value)):
            raise RecipeError(
                f"undoes --set {text}",
                code="VT-RECIPE-090",
                where=source,
                remedy="remove one of them",
            )


def resolve_path(name: str, source: str, stages: Collection[str] = ()) -> Path:
    """Return the keys a dotted path stands for.

    Args:
        name: the path.
        source: what to call it in messages.
        stages: the recipe's stages; another name is a stage that is new.

    Raises:
        RecipeError: it is malformed.
    """
    tokens, position = [], 0
    while position < len(name):
        match = _TOKEN.match(name, position)
        if match is None:
            raise RecipeError(
                f"cannot read the path {name!r}",
                code="VT-RECIPE-037",
                where=source,
                remedy="separate names by dots; quote names that contain quotes",
            )
        tokens.append(next(group for group in match.groups() if group is not None).strip())
        position = match.end()
    path: list[str | int] = []
    shape: Shape | None = root_shape()
    while tokens:
        if shape is not None and shape.kind == "mapping":
            taken = _entry_length(tokens, shape, stages if path == ["stages"] else ())
        else:
            taken = 1
        key = ".".join(tokens[:taken])
        tokens = tokens[taken:]
        if path == ["stages"]:
            with suppress(RecipeError):  # otherwise a new stage
                key = stage_name(key, stages)
        path.append(key)
        shape = shape_of(shape, key) if shape is not None else None
    return tuple(path)


def _entry_length(tokens: Sequence[str], shape: Shape, stages: Collection[str]) -> int:
    """Return how many tokens make up one key of a mapping with free names; ``stages`` are names
    that are known."""
    # The longest name that is known: stages 2 and 2.1 may both be there
    for taken in range(len(tokens) if stages else 0, 0, -1):
        name = ".".join(tokens[:taken])
        if name in stages or STAGE_ALIASES.get(name.removesuffix(".sh")) in stages:
            return taken
    # Otherwise the name ends before the first word that is a setting of what stands below it
    inner = fields_of(shape.inner)
    return next(
        (index for index, token in enumerate(tokens) if index and token in inner), len(tokens)
    )


def _set(tree: Tree, path: Path, value: Any, source: str) -> None:
    parent = tree.value if isinstance(tree.value, dict) else {}
    tree.value = parent
    shape: Shape | None = root_shape()
    for depth, key in enumerate(path[:-1]):
        shape = shape_of(shape, str(key)) if shape is not None else None
        child = parent.get(key)
        if child is None:
            child = parent[key] = {}
            tree.locations.setdefault(path[: depth + 1], source)
        if not isinstance(child, dict):
            raise RecipeError(
                f"{'.'.join(map(str, path[: depth + 1]))} is not a mapping",
                code="VT-RECIPE-038",
                where=source,
            )
        parent = child
    # What stood below is gone: a later message must not name its line
    for location in [location for location in tree.locations if location[: len(path)] == path]:
        del tree.locations[location]
    if value is None and shape is not None and shape.kind == "mapping":
        parent.pop(path[-1], None)
        return
    parent[path[-1]] = value
    tree.locations[path] = source
