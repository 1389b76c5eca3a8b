"""Modules that a recipe starts from: an import or an export of ours, a directory or a place on S3.

Both list their modules, and every file with size and sha256, in one JSON file.
"""

from __future__ import annotations

import json
from typing import Any

from vita_train.errors import CheckpointError
from vita_train.manifest import FileRef, ModuleRef
from vita_train.recipe.schema import Recipe
from vita_train.storage.store import Store, check_key, open_store

IMPORT_MANIFEST = "import.json"
IMPORT_FORMAT = "vita-train/import/v1"
EXPORT_MANIFEST = "export.json"
EXPORT_FORMAT = "vita-train/export/v1"
#: Stands for a stage's name where weights were made elsewhere.
IMPORTED = "import"

_FORMATS = {IMPORT_MANIFEST: IMPORT_FORMAT, EXPORT_MANIFEST: EXPORT_FORMAT}


def imported_modules(recipe: Recipe) -> dict[str, ModuleRef]:
    """Return the modules that the recipe's ``model.sources`` name, with their files.

    Raises:
        CheckpointError: a place holds neither an import nor an export, or not that module.
    """
    return {name: ModuleRef(stage=IMPORTED, files=source_files(uri, name, endpoint=recipe.storage.endpoint))
            for name, uri in recipe.model.sources.items()}


def source_files(uri: str, module: str, *, endpoint: str | None = None) -> tuple[FileRef, ...]:
    """Return the files of one module of an import or export.

    Raises:
        CheckpointError: there is no such module, or the listing is damaged.
    """
    store = open_store(uri, endpoint=endpoint)
    listing = read_listing(store)
    try:
        entry = listing["modules"].get(module)
        if entry is None:
            raise CheckpointError(f"has no module {module}", where=store.uri,
                                  remedy=f"it has {', '.join(listing['modules'])}; correct model.sources")
        return tuple(FileRef(uri=store.uri_of(check_key(name)), sha256=str(listing["files"][name]["sha256"]),
                             bytes=int(listing["files"][name]["bytes"])) for name in entry["files"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("its list of files is damaged", where=store.uri, remedy="import it again") from error


def terms_of(recipe: Recipe) -> str:
    """Return the terms that weights made with a recipe stand under: those of what it started from; empty for none."""
    stores = [open_store(uri, endpoint=recipe.storage.endpoint) for uri in sorted(set(recipe.model.sources.values()))]
    return "; ".join(sorted({terms for store in stores if (terms := str(read_listing(store).get("terms", "")))}))


def read_listing(store: Store) -> dict[str, Any]:
    """Return the ``import.json`` or ``export.json`` of a place.

    Raises:
        CheckpointError: there is none, or it is of another version.
    """
    found = next((name for name in _FORMATS if store.exists(name)), None)
    if found is None:
        raise CheckpointError("is neither an import nor an export of this package", where=store.uri,
                              remedy="make one with vita-train import, and name its directory")
    try:
        listing = json.loads(store.read(found))
    except (ValueError, RecursionError) as error:
        raise CheckpointError("is damaged", where=store.uri_of(found), remedy="import it again") from error
    if not isinstance(listing, dict) or listing.get("format") != _FORMATS[found]:
        raise CheckpointError("is of another version", where=store.uri_of(found), remedy="import it again")
    return listing
