"""The catalogue: our entries, and those in the user's own folders beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from vita_train.data.catalogue.entry import Entry
from vita_train.errors import DataError, RecipeError, UserError
from vita_train.recipe.yaml_tree import parse_yaml

#: Folders with catalogue entries of the user's own, with a colon between them.
CATALOGUE = "VITA_TRAIN_CATALOGUE"

_OURS = Path(__file__).parent
_SHIPPED = ("corpora", "models")


@dataclass(frozen=True)
class Catalogue:
    """Entries by name, sorted, and the file of each."""

    entries: dict[str, Entry]
    files: dict[str, Path]

    def __getitem__(self, name: str) -> Entry:
        """Return an entry.

        Raises:
            UserError: there is none of this name; the nearest ones are named.
        """
        if name in self.entries:
            return self.entries[name]
        near = get_close_matches(name, self.entries, n=3)
        raise UserError(
            f"the catalogue has no entry {name!r}",
            code="VT-USE-177",
            remedy=(f"did you mean {' or '.join(near)}? " if near else "")
            + "vita-train data list shows all; vita-train data add FILE adds one",
        )

    def with_needs(self, names: Sequence[str]) -> list[str]:
        """Return names followed by those of the entries that they need, each once, in order."""
        found: dict[str, None] = {}
        queue = list(names)
        while queue:
            name = queue.pop(0)
            if name not in found:
                found[name] = None
                queue += self[name].needs
        return list(found)


def user_folder() -> Path:
    """Return the folder that `data add` writes to: the first of VITA_TRAIN_CATALOGUE, else
    ``~/.config/vita-train/catalogue``."""
    named = _named_folders()
    return named[0] if named else Path.home() / ".config" / "vita-train" / "catalogue"


def _named_folders() -> list[Path]:
    parts = os.environ.get(CATALOGUE, "").split(os.pathsep)
    return [Path(part).expanduser().absolute() for part in parts if part]


def load_catalogue(folders: Sequence[Path] = ()) -> Catalogue:
    """Read all entries: ours, those of the user's folders, those of ``folders``; later ones replace
    earlier ones of the same name.

    Args:
        folders: further folders; each must exist.

    Raises:
        DataError: a file is no entry, or is not named as its entry is.
        UserError: a folder that was named does not exist.
    """
    for folder in (*_named_folders(), *folders):
        if not folder.is_dir():
            raise UserError(
                "catalogue folder does not exist",
                code="VT-USE-178",
                where=str(folder),
                remedy=f"correct {CATALOGUE} or --catalogue",
            )
    entries: dict[str, Entry] = {}
    files: dict[str, Path] = {}
    own = [user_folder()] if not _named_folders() else _named_folders()
    for folder in (*(_OURS / name for name in _SHIPPED), *own, *folders):
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
            entry = load_entry(path)
            if entry.name != path.stem:
                raise DataError(
                    f"the entry's name is {entry.name!r}, its file is named {path.stem!r}",
                    code="VT-DATA-068",
                    where=str(path),
                    remedy="give both the same name",
                )
            entries[entry.name], files[entry.name] = entry, path
    return Catalogue({name: entries[name] for name in sorted(entries)}, files)


def load_entry(path: Path) -> Entry:
    """Read one entry.

    Raises:
        DataError: it cannot be read, or is no entry; the message has the key.
    """
    try:
        return Entry.model_validate(parse_yaml(path.read_text(encoding="utf-8"), str(path)).value)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(
            f"catalogue entry cannot be read: {reason}",
            code="VT-DATA-069",
            where=str(path),
            remedy="give the path of a YAML file",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"catalogue entry is not valid: {key}{': ' if key else ''}{first['msg']}",
            code="VT-DATA-070",
            where=str(path),
            remedy="correct the key; docs/how-to/get-public-data.md shows an entry",
        ) from error
    except RecipeError as error:
        raise DataError(
            error.what,
            code=error.code,
            where=error.where,
            remedy=error.remedy or "correct the file",
        ) from error


def add_entry(path: Path, folder: Path | None = None) -> Path:
    """Copy an entry to the user's catalogue, after it was checked; return its path there.

    Raises:
        DataError: it is no entry.
        UserError: the user's catalogue has another one of this name, or cannot be written.
    """
    entry = load_entry(path)
    place = (folder or user_folder()) / f"{entry.name}.yaml"
    text = path.read_bytes()
    try:
        if place.exists() and place.read_bytes() != text:
            raise UserError(
                f"there is another entry {entry.name!r} in your catalogue",
                code="VT-USE-179",
                where=str(place),
                remedy="rename the new one, or remove the old file first",
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        part.write_bytes(text)
        os.replace(part, place)
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}",
            code="VT-USE-180",
            where=str(place),
            remedy=f"choose a folder of yours by {CATALOGUE}",
        ) from error
    return place
