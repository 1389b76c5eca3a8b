"""Values of a Python configuration, read from its syntax: nothing in it is executed.

Understood are literals, lists, tuples, sets and dictionaries, ``+`` of texts, numbers and lists,
names, subscripts, f-strings of plain names, assignments, and imports between the files of one
folder. Calls, loops and conditions are refused with their line; functions and classes are passed
over, since a configuration only defines them.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita_train.errors import UserError

_MAX_BYTES = 4 << 20
#: Entries of all lists together, so that doubling a list again and again ends.
_MAX_ENTRIES = 1_000_000
_MAX_TEXT = 1 << 20
_PASSED_OVER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass)


@dataclass
class Module:
    """Names of one file, as its last assignments leave them."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """Name to the line of its assignment."""


class Missing:
    """What a name from outside the folder stands for; using it is refused."""


class Folder:
    """The Python files of a configuration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spots: dict[int, tuple[Path, int]] = {}
        """Of each dictionary and list, by its identity: where it is written."""
        self.keys: dict[tuple[int, str], int] = {}
        """Of each key of a dictionary: its line."""
        self._modules: dict[str, Module | None] = {}
        self._entries = 0
        self._alive: list[Any] = []

    def module(self, name: str) -> Module:
        """Read a file of the folder, without its ending, once.

        Raises:
            UserError: it is missing, no Python, or holds what is not understood, with its line.
        """
        found = self._modules.get(name)
        if found is not None:
            return found
        path = self.path / f"{name}.py"
        if name in self._modules:
            raise UserError(
                "imports itself, by way of other files",
                code="VT-USE-152",
                where=str(path),
                remedy="take one of the imports out",
            )
        self._modules[name] = None
        module = Module(path)
        for statement in _parsed(path).body:
            self._statement(statement, module)
        self._modules[name] = module
        return module

    def refuse(self, module: Module, node: ast.AST, what: str) -> UserError:
        """Return the error for something that is not understood."""
        return UserError(
            f"{what} is not understood: the file is read, never executed",
            code="VT-USE-153",
            where=f"{module.path}:{getattr(node, 'lineno', 1)}",
            remedy="write the value out",
        )

    def _statement(self, node: ast.stmt, module: Module) -> None:
        if isinstance(node, _PASSED_OVER):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._assign_name(alias.asname or alias.name.split(".")[0], Missing(), module, node)
        elif isinstance(node, ast.ImportFrom):
            self._import(node, module)
        elif isinstance(node, ast.Assign):
            value = self._value(node.value, module)
            for target in node.targets:
                self._assign(target, value, module)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self._value(node.value, module), module)
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            before = self._value(_loaded(node.target), module)
            after = self._add(before, self._value(node.value, module), node, module)
            self._assign(node.target, after, module)
        elif not _is_main_guard(node):
            raise self.refuse(module, node, _name_of(node))

    def _import(self, node: ast.ImportFrom, module: Module) -> None:
        name = (node.module or "").rsplit(".", 1)[-1]
        if name and (self.path / f"{name}.py").is_file():
            there = self.module(name)
            for alias in node.names:
                if alias.name == "*":
                    for each, value in there.values.items():
                        if not each.startswith("_"):
                            self._assign_name(each, value, module, node)
                elif alias.name not in there.values:
                    raise self.refuse(module, node, f"{alias.name}, which {name}.py does not have,")
                else:
                    self._assign_name(
                        alias.asname or alias.name, there.values[alias.name], module, node
                    )
            return
        for alias in node.names:
            if alias.name != "*":
                inner = self.path / f"{alias.name}.py"
                value = self.module(alias.name) if not name and inner.is_file() else Missing()
                self._assign_name(alias.asname or alias.name, value, module, node)

    def _assign(self, target: ast.expr, value: Any, module: Module) -> None:
        if isinstance(target, ast.Name):
            self._assign_name(target.id, value, module, target)
            return
        if isinstance(target, ast.Subscript):
            owner = self._value(target.value, module)
            key = self._value(target.slice, module)
            if isinstance(owner, dict) and isinstance(key, str):
                owner[key] = value
                self.keys[id(owner), key] = target.lineno
                return
        raise self.refuse(module, target, "an assignment to something other than a name")

    def _assign_name(self, name: str, value: Any, module: Module, node: ast.AST) -> None:
        module.values[name] = value
        module.lines[name] = getattr(node, "lineno", 1)

    def _value(self, node: ast.expr, module: Module) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._named(node, module)
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value, module)
            if isinstance(owner, Module) and node.attr in owner.values:
                return owner.values[node.attr]
            raise self.refuse(module, node, f"{ast.unparse(node)!r}")
        if isinstance(node, ast.Dict):
            return self._dict(node, module)
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return self._list(node, module)
        if isinstance(node, ast.JoinedStr):
            return self._joined(node, module)
        return self._operation(node, module)

    def _operation(self, node: ast.expr, module: Module) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._add(
                self._value(node.left, module), self._value(node.right, module), node, module
            )
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._value(node.operand, module)
            if isinstance(value, int | float):
                return -value
        if isinstance(node, ast.Subscript):
            owner, key = self._value(node.value, module), self._value(node.slice, module)
            if isinstance(owner, dict | list) and isinstance(key, str | int):
                try:
                    return owner[key]  # type: ignore[index]
                except (KeyError, IndexError, TypeError):
                    raise self.refuse(module, node, f"{ast.unparse(node)!r}") from None
        raise self.refuse(module, node, _name_of(node))

    def _named(self, node: ast.Name, module: Module) -> Any:
        value = module.values.get(node.id, Missing())
        if isinstance(value, Missing):
            raise self.refuse(module, node, f"the name {node.id!r}")
        return value

    def _dict(self, node: ast.Dict, module: Module) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, entry in zip(node.keys, node.values, strict=True):
            if key_node is None:
                other = self._value(entry, module)
                if not isinstance(other, dict):
                    raise self.refuse(module, entry, "** of something other than a dictionary")
                value |= other
                self._count(len(other), module, node)
                continue
            key = self._value(key_node, module)
            if not isinstance(key, str):
                raise self.refuse(module, key_node, f"the key {key!r}")
            if key in value:
                raise UserError(
                    f"the key {key!r} is given twice",
                    code="VT-USE-154",
                    where=f"{module.path}:{key_node.lineno}",
                    remedy="take one of them out",
                )
            value[key] = self._value(entry, module)
            self.keys[id(value), key] = key_node.lineno
        return self._kept(value, node, module)

    def _list(self, node: ast.List | ast.Tuple | ast.Set, module: Module) -> list[Any]:
        value: list[Any] = []
        for entry in node.elts:
            if isinstance(entry, ast.Starred):
                other = self._value(entry.value, module)
                if not isinstance(other, list):
                    raise self.refuse(module, entry, "* of something other than a list")
                value += other
            else:
                value.append(self._value(entry, module))
        return self._kept(value, node, module)

    def _add(self, left: Any, right: Any, node: ast.AST, module: Module) -> Any:
        if isinstance(left, list) and isinstance(right, list):
            return self._kept([*left, *right], node, module)
        if isinstance(left, str) and isinstance(right, str) and len(left + right) < _MAX_TEXT:
            return left + right
        if isinstance(left, int | float) and isinstance(right, int | float):
            return left + right
        raise self.refuse(module, node, "this sum")

    def _joined(self, node: ast.JoinedStr, module: Module) -> str:
        parts = []
        for part in node.values:
            plain = isinstance(part, ast.FormattedValue) and part.format_spec is None
            inner = part.value if isinstance(part, ast.FormattedValue) and plain else part
            value = self._value(inner, module)
            if not isinstance(value, str | int | float):
                raise self.refuse(module, node, "this f-string")
            parts.append(str(value))
        text = "".join(parts)
        if len(text) > _MAX_TEXT:
            raise self.refuse(module, node, "a text of this length")
        return text

    def _kept(self, value: Any, node: ast.AST, module: Module) -> Any:
        self._count(len(value), module, node)
        self._alive.append(value)  # so that its identity stays its own
        self.spots[id(value)] = (module.path, getattr(node, "lineno", 1))
        return value

    def _count(self, entries: int, module: Module, node: ast.AST) -> None:
        self._entries += entries
        if self._entries > _MAX_ENTRIES:
            raise self.refuse(module, node, f"a configuration of over {_MAX_ENTRIES} entries")


def _parsed(path: Path) -> ast.Module:
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "is no regular file")
        with path.open("rb") as stream:
            source = stream.read(_MAX_BYTES + 1)
        if len(source) > _MAX_BYTES:
            raise ValueError(f"is longer than {_MAX_BYTES} bytes")
        return ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise UserError(
            f"is not valid Python: {error.msg}",
            code="VT-USE-155",
            where=f"{path}:{error.lineno or 1}",
            remedy="correct the line",
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}",
            code="VT-USE-156",
            where=str(path),
            remedy="give the folder that holds dataset_config.py",
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"is no configuration: {error or 'it is nested too deeply'}",
            code="VT-USE-157",
            where=str(path),
            remedy="correct the file",
        ) from error


def _loaded(target: ast.expr) -> ast.expr:
    """The target of ``+=`` as an expression to read."""
    return ast.parse(ast.unparse(target), mode="eval").body


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__ ==")


def _name_of(node: ast.AST) -> str:
    inner = node.value if isinstance(node, ast.Expr) else node
    if isinstance(inner, ast.Call):
        return f"the call {ast.unparse(inner)[:60]!r}"
    return f"{type(inner).__name__.lower()} {ast.unparse(inner)[:60]!r}"
