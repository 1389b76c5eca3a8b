"""Weights that a recipe starts from: an import or an export of ours, a finished stage of another
run, or plain files.

An import and an export list their modules, and every file with size and sha256, in one JSON file; a
stage does so in its manifest. Plain files are digested where they lie.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita_train.errors import CheckpointError
from vita_train.recipe.schema import Recipe
from vita_train.runs.final import read_final
from vita_train.runs.manifest import PRETRAINED, ModuleRef
from vita_train.storage.base import FileRef, Store, check_key, is_local, local_path
from vita_train.storage.factory import open_store
from vita_train.storage.host_cache import known_digest

IMPORT_MANIFEST = "import.json"
IMPORT_FORMAT = "vita-train/import/v1"
EXPORT_MANIFEST = "export.json"
EXPORT_FORMAT = "vita-train/export/v1"

_FORMATS = {IMPORT_MANIFEST: IMPORT_FORMAT, EXPORT_MANIFEST: EXPORT_FORMAT}


def pretrained_modules(recipe: Recipe) -> dict[str, ModuleRef]:
    """Return the modules that the recipe's ``weights`` name, with their files.

    Raises:
        CheckpointError: nothing is at a place, or not that module, or its listing is damaged.
    """
    return {
        name: _module(name, source.rstrip("/"), recipe.storage.endpoint)
        for name, source in recipe.weights.items()
    }


def terms_of(recipe: Recipe) -> str:
    """Return the terms that weights made with a recipe stand under: those of what it started from;
    empty for none."""
    places = sorted(
        {source.rstrip("/") for source in recipe.weights.values() if not _is_file(source)}
    )
    listings = [_listing(place, recipe.storage.endpoint)[1] for place in places]
    return "; ".join(
        sorted({terms for listing in listings if (terms := str(listing.get("terms", "")))})
    )


def _module(name: str, source: str, endpoint: str | None) -> ModuleRef:
    if not _is_file(source):
        store, listing = _listing(source, endpoint)
        if store is not None:
            return ModuleRef(stage=PRETRAINED, files=_listed(name, source, store, listing))
        if (ref := _of_stage(name, source, endpoint)) is not None:
            return ref
    if not is_local(source):
        raise CheckpointError(
            "is neither an import nor an export nor a finished stage",
            code="VT-WEIGHTS-071",
            where=_where(name, source),
            remedy="name one, or a file on this machine",
        )
    path = local_path(source)
    paths = sorted({*path.glob(f"{name}.safetensors"), *path.glob(f"{name}-*-of-*.safetensors")})
    if path.is_file() and path.suffix == ".safetensors":
        paths = [path]
    if not paths:
        raise CheckpointError(
            f"holds no weights of {name}",
            code="VT-WEIGHTS-072",
            where=_where(name, source),
            remedy="name an import (vita-train model import makes one of other people's files), an "
            "export, the folder of a finished stage, or a safetensors file with its own "
            "tensor names",
        )
    return ModuleRef(stage=PRETRAINED, files=tuple(_file(file) for file in paths))


def _is_file(source: str) -> bool:
    return is_local(source) and local_path(source).is_file()


def _listing(
    source: str, endpoint: str | None
) -> tuple[Store, dict[str, Any]] | tuple[None, dict[str, Any]]:
    """Return the place and the ``import.json`` or ``export.json`` in it; none where neither is."""
    store = open_store(source, endpoint=endpoint)
    found = next((name for name in _FORMATS if store.exists(name)), None)
    if found is None:
        return None, {}
    try:
        listing = json.loads(store.read(found))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            "is damaged", code="VT-WEIGHTS-073", where=store.uri_of(found), remedy="make it again"
        ) from error
    if not isinstance(listing, dict) or listing.get("format") != _FORMATS[found]:
        raise CheckpointError(
            "is of another version",
            code="VT-WEIGHTS-074",
            where=store.uri_of(found),
            remedy="make it again",
        )
    return store, listing


def _listed(name: str, source: str, store: Store, listing: dict[str, Any]) -> tuple[FileRef, ...]:
    try:
        if name not in listing["modules"]:
            raise CheckpointError(
                f"holds no weights of {name}",
                code="VT-WEIGHTS-075",
                where=_where(name, source),
                remedy=f"it holds {', '.join(listing['modules']) or 'no module'}",
            )
        return tuple(
            FileRef(
                # check_key: a listing from elsewhere must not name files outside its folder
                uri=store.uri_of(check_key(file)),
                sha256=str(listing["files"][file]["sha256"]),
                bytes=int(listing["files"][file]["bytes"]),
            )
            for file in listing["modules"][name]["files"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "its list of files is damaged",
            code="VT-WEIGHTS-076",
            where=store.uri,
            remedy="make it again",
        ) from error


def _of_stage(name: str, source: str, endpoint: str | None) -> ModuleRef | None:
    folder, _, stage = source.rpartition("/")
    # A stage right below the root or the present directory has no folder before it
    manifest = read_final(
        open_store(folder or ("/" if source.startswith("/") else "."), endpoint=endpoint), stage
    )
    if manifest is None:
        return None
    if name not in manifest.modules:
        raise CheckpointError(
            f"holds no weights of {name}",
            code="VT-WEIGHTS-077",
            where=_where(name, source),
            remedy=f"it holds {', '.join(manifest.modules) or 'no module'}",
        )
    # For this recipe it is given, whichever stage made it
    return manifest.modules[name].model_copy(update={"stage": PRETRAINED})


def _file(path: Path) -> FileRef:
    return FileRef(uri=str(path), sha256=known_digest(path), bytes=path.stat().st_size)


def _where(name: str, source: str) -> str:
    return f"weights.{name}: {source}"
