"""Things by name that other packages may add to: objectives, task kinds, data sources, job
backends, vision towers, projectors and export layouts.

A package announces its module in its own metadata, and every process that has the package installed
finds it, the pods of a cluster included:

    [project.entry-points."vita_train.plugins"] mine = "my_package.vita"

The module is imported when something is first looked up, and calls ``register_objective``,
``register_task_kind``, ``register_source``, ``register_job_backend``, ``register_tower``,
``register_projector`` or ``register_export_layout``. It declares and does no more: classes and
functions are named as ``package.module:name`` and imported when they are used. Neither recipes nor
data files can name code.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from vita_train.errors import UserError, VitaError

GROUP = "vita_train.plugins"

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """Things by name: the package's own first, then those of plugins.

    Args:
        what: what they are, for messages.
        modules: the package's own modules that add some, where a new one is to be found and not
            listed: ``a.b.*`` are all modules of a package, ``a.b.*.c`` the modules ``c`` of its
            packages.
    """

    def __init__(self, what: str, modules: str = "") -> None:
        self._what, self._modules = what, modules
        self._items: dict[str, Item] = {}

    def add(self, name: str, item: Item) -> None:
        """Add a thing.

        Raises:
            VitaError: its name is taken by another.
        """
        if self._items.setdefault(name, item) != item:
            raise VitaError(
                f"there are two of {self._what} {name!r}",
                code="VT-FAIL-007",
                where=GROUP,
                remedy="a plugin must choose a name of its own",
            )

    def __getitem__(self, name: str) -> Item:
        """Return a thing by name.

        Raises:
            UserError: there is none; the nearest names are listed.
        """
        if name not in self:
            known = tuple(self)
            near = get_close_matches(name, known, n=2)
            raise UserError(
                f"there is no {self._what} {name!r}",
                code="VT-USE-070",
                remedy=f"did you mean {' or '.join(near)}?"
                if near
                else f"there are {', '.join(known)}",
            )
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._items:
            self._load()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(tuple(self._items))

    def _load(self) -> None:
        if self._modules:
            _import_all(self._modules)
        load_plugins()


@cache
def _import_all(pattern: str) -> None:
    package, _, rest = pattern.partition(".*")
    for info in iter_modules(import_module(package).__path__):
        name = f"{package}.{info.name}{rest}"
        if not rest or (info.ispkg and find_spec(name) is not None):
            import_module(name)


@cache
def load_plugins() -> None:
    """Import the module of every installed plugin, once.

    Raises:
        UserError: one cannot be imported.
    """
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            entry.load()
        except Exception as error:
            raise UserError(
                f"the plugin {entry.name!r} cannot be loaded: {type(error).__name__}: {error}",
                code="VT-USE-071",
                where=entry.value,
                remedy="correct its package or uninstall it",
            ) from error


def named(path: str) -> Any:
    """Return what ``package.module:name`` names.

    Raises:
        UserError: the module cannot be imported or lacks the name.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be imported: {error}",
            code="VT-USE-072",
            remedy="name it as package.module:name of an installed package",
        ) from error
