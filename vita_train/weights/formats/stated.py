"""Settings as someone's file states them, held against the recipe's: what each key of such a file
is in a recipe, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vita_train.recipe.data import AudioSpec
from vita_train.recipe.model import ModelSpec
from vita_train.weights.formats.import_report import shown

#: Entries of a list that are shown and compared.
_LONGEST_LIST = 16
#: Lists within lists that are.
_MOST_LEVELS = 2


@dataclass(frozen=True)
class Stated:
    """One setting, there and here."""

    module: str
    """Of ours, whose function it changes."""
    file: str
    name: str
    """In the file, with a dot for each level."""
    theirs: object
    ours: object
    """What the recipe says, in the file's terms."""
    key: str = ""
    """Key of the recipe; empty where it has none, because only one value is built here."""
    needed: object = None
    """What the key would have to be; the value of the file when none."""
    note_only: bool = False
    """Whether a difference is worth a note only: it changes how training goes on, not what the
    weights compute."""

    @property
    def agrees(self) -> bool:
        """Whether both say the same."""
        return _plain(self.theirs) == _plain(self.ours)

    def __str__(self) -> str:
        both = f"{self.name} is {_shown(self.theirs)} in {self.file} and {_shown(self.ours)} "
        if not self.key:
            return both + "in the recipe, where nothing else is built"
        needed = self.theirs if self.needed is None else self.needed
        return both + f"in the recipe (--set {self.key}={_shown(needed)})"


class Settings(NamedTuple):
    """What of a recipe such files speak of."""

    model: ModelSpec
    audio: AudioSpec = AudioSpec()


@dataclass(frozen=True)
class Key:
    """One key of a file."""

    module: str
    """Of ours, whose function it changes."""
    path: str
    """Names of the levels, with dots between."""
    ours: Callable[[Settings], Any]
    """What a recipe says, in the file's terms."""
    default: Any = None
    """What the public code takes where the file does not say; none where it cannot do without."""
    key: str = ""
    """Key of the recipe; empty where only one value is built here."""
    needed: Callable[[Any], Any] = lambda theirs: theirs
    """What the recipe's key would have to be for a value of the file."""
    read: Callable[[Settings], bool] = lambda settings: True
    """Whether the modules of a recipe have to do with it."""
    note_only: bool = False
    """As in `Stated`."""


def only(value: Any) -> Callable[[Settings], Any]:
    """Return what says the same of every recipe."""
    return lambda settings: value


def stated_by(
    keys: Iterable[Key], file: str, found: Mapping[str, Any], settings: Settings
) -> list[Stated]:
    """Return the settings of a file beside the recipe's, as the public code reads it."""
    stated = []
    for key in keys:
        theirs, said = value_at(found, key.path), file
        if theirs is None:
            theirs, said = key.default, f"{file} (by default)"
        if theirs is not None and key.read(settings):
            needed = key.needed(theirs) if key.key else None
            ours = key.ours(settings)
            stated.append(
                Stated(key.module, said, key.path, theirs, ours, key.key, needed, key.note_only)
            )
    return stated


def described(keys: Iterable[Key], settings: Settings) -> dict[str, Any]:
    """Return the content of a file that says what a recipe does."""
    content: dict[str, Any] = {}
    for key in keys:
        if key.read(settings):
            *levels, name = key.path.split(".")
            place = content
            for level in levels:
                place = place.setdefault(level, {})
            place[name] = key.ours(settings)
    return content


def contradictions(stated: Iterable[Stated], modules: Collection[str]) -> list[str]:
    """Return what of some modules' settings must agree and does not, each with what would."""
    return [
        str(one) for one in stated if one.module in modules and not one.note_only and not one.agrees
    ]


def differences_to_note(stated: Iterable[Stated], modules: Collection[str]) -> list[str]:
    """Return what of some modules' settings differs and need not agree."""
    return [
        str(one) for one in stated if one.module in modules and one.note_only and not one.agrees
    ]


def value_at(found: Mapping[str, Any], path: str) -> Any:
    """Return what a file says below the levels of a path; none where it says nothing."""
    place: Any = found
    for level in path.split("."):
        place = place.get(level) if isinstance(place, Mapping) else None
    return place


def _plain(value: object, levels: int = _MOST_LEVELS) -> object:
    """Return a value so that equal ones compare as equal, whatever wrote them: YAML reads 1e-6 as
    a word. What is not plain equals nothing."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value.lower()
    if isinstance(value, list | tuple) and levels and len(value) <= _LONGEST_LIST:
        return [_plain(entry, levels - 1) for entry in value]
    # An object of its own equals nothing, itself of another call included
    return value if isinstance(value, bool | int | float | None) else object()


def _shown(value: object, levels: int = _MOST_LEVELS) -> str:
    """Return a value as an option would have it. Only plain ones are shown: YAML can describe one
    that is larger than any memory."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, str | int | float):
        return shown(value)
    if isinstance(value, list | tuple) and levels and len(value) <= _LONGEST_LIST:
        return f"[{', '.join(_shown(entry, levels - 1) for entry in value)}]"
    return "no plain value"
