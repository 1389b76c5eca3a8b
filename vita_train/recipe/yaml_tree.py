"""YAML with line numbers: read into plain values that remember where each stood, and written so
that it reads back.

Plain scalars follow YAML 1.2: ``2e-3`` is a number, ``no`` is a word. Keys are always text, and so
are names of stages, so that one may be called 1.1 without quotes. Nothing but mappings, lists and
scalars is understood, so nothing is ever executed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from vita_train.errors import RecipeError

#: Where a value stands in the tree: mapping keys and list positions from the root.
Path = tuple[str | int, ...]

#: Far above any recipe; anchors that multiply each other reach it at once.
_MAX_DEPTH, _MAX_VALUES = 40, 100_000
_TAG = "tag:yaml.org,2002:"
_SCALARS: tuple[tuple[str, str, str], ...] = (
    # \0 stands for the empty scalar, which has no first character
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    # 18 digits fit 64 bits; longer ones are read as floats, and no bound of a recipe takes them
    ("int", r"[-+]?[0-9]{1,18}", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+0123456789."),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, pattern, firsts in _SCALARS:
        compiled = re.compile(f"^(?:{pattern})$")
        for first in firsts:
            table.setdefault("" if first == "\0" else first, []).append((_TAG + name, compiled))
    return table


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()


def _quoted() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Return what makes a plain word something else than a word, here or for readers of YAML 1.1,
    to whom ``off`` is false and ``1:30`` ninety."""
    table = _resolvers()
    for first, entries in yaml.SafeDumper.yaml_implicit_resolvers.items():
        table[first] = [*table.get(first, []), *entries]
    return table


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _quoted()

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass
class Tree:
    """Plain values and the place each came from."""

    value: Any
    source: str
    """File the values came from."""
    locations: dict[Path, str] = field(default_factory=dict)
    """Where a value or its key stands, e.g. ``my.yaml:12``."""
    at: Path = ()
    """Path of the tree's root in a recipe."""

    def location(self, path: Path) -> str:
        """Return the place of a value, or of the nearest value around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.locations:
                return self.locations[path[:end]]
        return self.source


def names_stages(path: Path) -> bool:
    """Say whether what stands at a path of a recipe is the name of a stage."""
    return len(path) == 4 and path[0] == "stages" and path[2] == "after"


def compose_yaml(text: str, source: str) -> yaml.Node | None:
    """Return a YAML document as nodes that know where they stand in the text; None where it is
    empty.

    Raises:
        RecipeError: it is not YAML; the line is named.
    """
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError(
            f"is not YAML: {what}",
            code="VT-RECIPE-051",
            where=where,
            remedy="check indentation, brackets and quotes",
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(
            f"is not YAML: {' '.join(str(error).split())}", code="VT-RECIPE-052", where=source
        ) from error
    except RecursionError:
        raise RecipeError(
            "is nested too deeply",
            code="VT-RECIPE-091",
            where=source,
            remedy="check its brackets",
        ) from None


def parse_yaml(text: str, source: str, at: Path = ()) -> Tree:
    """Read a YAML document.

    Args:
        text: the document.
        source: what to call it in messages.
        at: the path at which it is to stand in a recipe; the tree's own paths begin at its root all
            the same.

    Raises:
        RecipeError: it is not YAML, has a key twice in one mapping, or uses tags; the line is
            named.
    """
    node = compose_yaml(text, source)
    tree = Tree(None, source, at=at)
    if node is not None:
        tree.value = _value(node, (), tree)
    return tree


def dump_yaml(value: Any) -> str:
    """Write plain values as YAML that `parse_yaml` reads back unchanged."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _value(node: yaml.Node, path: Path, tree: Tree) -> Any:
    where = f"{tree.source}:{node.start_mark.line + 1}"
    # A key's own line, where there is one, was noted before
    tree.locations.setdefault(path, where)
    if len(path) > _MAX_DEPTH or len(tree.locations) > _MAX_VALUES:
        raise RecipeError(
            "is nested too deeply or holds too many values", code="VT-RECIPE-053", where=where
        )
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, tree)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), tree) for index, item in enumerate(node.value)]
    if names_stages((*tree.at, *path)) and node.tag in (f"{_TAG}int", f"{_TAG}float"):
        return str(node.value)
    return _scalar(node, where)


def _mapping(node: yaml.MappingNode, path: Path, tree: Tree) -> dict[str, Any]:
    result: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        where = f"{tree.source}:{line}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError("a key must be a word", code="VT-RECIPE-054", where=where)
        key = key_node.value
        # PyYAML lets the last one win without a word
        if key in lines:
            raise RecipeError(
                f"{key!r} is given twice (first in line {lines[key]})",
                code="VT-RECIPE-055",
                where=where,
                remedy="remove one of them",
            )
        lines[key] = line
        tree.locations[(*path, key)] = where
        result[key] = _value(value_node, (*path, key), tree)
    return result


def _scalar(node: yaml.Node, where: str) -> Any:
    text = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    if kind == "float":
        if not math.isfinite(number := float(text)):
            raise RecipeError(f"{text} is too large", code="VT-RECIPE-056", where=where)
        return number
    if kind == "str":
        return text
    raise RecipeError(
        f"tags such as {node.tag} are not allowed",
        code="VT-RECIPE-057",
        where=where,
        remedy="write a plain value",
    )
