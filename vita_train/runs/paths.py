"""Where the parts of a run lie on this machine: logs, raw data and the prepared corpus are always local.

With a store elsewhere, data that another machine made are fetched first.
"""

from __future__ import annotations

import re
from pathlib import Path

from vita_train.errors import UserError
from vita_train.recipe.schema import Recipe
from vita_train.runs.final import read_final
from vita_train.storage.base import Store, is_local, local_path
from vita_train.storage.factory import open_store
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.tar_shards import fetch_tree


def run_name(recipe: Recipe, run: str) -> str:
    """Return a run's name; empty takes the recipe's.

    Raises:
        UserError: it would not do as one part of a path and of a URI.
    """
    name = run or recipe.name
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise UserError(f"{name!r} is no name for a run", where="--run",
                        remedy="use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit")
    return name


def store_of(recipe: Recipe, *, patience: float | None = None) -> Store:
    """Return the store that holds the recipe's runs; `patience` as in `open_store`."""
    return open_store(recipe.storage.root, endpoint=recipe.storage.endpoint, patience=patience)


def run_dir(recipe: Recipe, run: str) -> Path:
    """Return the local directory of a run: ``<root>/<run>``, or below the cache when the root is on S3."""
    if is_local(recipe.storage.root):
        return local_path(recipe.storage.root) / run
    return cache_dir() / "runs" / run


def raw_dir(recipe: Recipe, run: str) -> Path:
    """Return where the fetched data lies: ``registry.json`` and the media."""
    return run_dir(recipe, run) / "data_fetch" / "raw"


def corpus_dir(recipe: Recipe, run: str) -> Path:
    """Return where the prepared corpus lies."""
    return run_dir(recipe, run) / "prepare" / "corpus"


def present_raw(recipe: Recipe, run: str) -> Path:
    """Return the fetched data as a local folder, downloaded once per node if another machine fetched them."""
    return _present(recipe, run, "data_fetch", raw_dir(recipe, run))


def present_corpus(recipe: Recipe, run: str, *, media: bool = True) -> Path:
    """Return the prepared corpus as a local folder.

    Args:
        recipe, run: which.
        media: see to it that the media it names are there too; tokenizer and units need none.
    """
    if media:
        present_raw(recipe, run)
    return _present(recipe, run, "prepare", corpus_dir(recipe, run))


def _present(recipe: Recipe, run: str, step: str, folder: Path) -> Path:
    if is_local(recipe.storage.root):
        return folder
    manifest = read_final(store_of(recipe), f"{run}/{step}")
    return fetch_tree(manifest.files, folder, endpoint=recipe.storage.endpoint) if manifest else folder


def logs_dir(recipe: Recipe, run: str, step: str = "") -> Path:
    """Return the directory of a step's logs, or of the whole run's when no step is named."""
    return run_dir(recipe, run) / step / "logs"
