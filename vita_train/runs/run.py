"""A run: a resolved recipe under a name. Its store, its keys and its folders have their one home
here.

In the store a run's parts lie under ``<root>/<run>``. Logs, raw data and the prepared corpus always
lie on this machine too; with a store elsewhere, those that another machine made are fetched first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vita_train.errors import UserError
from vita_train.recipe.base import MAX_NAME
from vita_train.recipe.extension import remember
from vita_train.recipe.load import dump_recipe, parse_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.final import final_key, read_final, write_final
from vita_train.runs.manifest import Manifest
from vita_train.runs.moved import follow_move
from vita_train.storage.base import Store, is_local, local_path
from vita_train.storage.factory import open_store
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.tar_shards import fetch_tree

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
RECIPE = "recipe.yaml"
"""Name of the file with a resolved recipe, in the folder of a run or of a stage's job."""


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        recipe: resolved in full.
        name: empty takes the recipe's.

    Raises:
        UserError: the name would not do as one part of a path and of a URI.
    """

    recipe: Recipe
    name: str = ""

    def __post_init__(self) -> None:
        name = self.name or self.recipe.name
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{name[:MAX_NAME]!r} is no name for a run",
                code="VT-USE-095",
                where="--run",
                remedy="use lower-case letters, digits, '.', '_' and '-', beginning with a letter "
                "or digit",
            )
        if len(name) > MAX_NAME:
            raise UserError(
                f"the run's name has {len(name)} characters, {MAX_NAME} are allowed",
                code="VT-USE-096",
                where="--run",
                remedy="it becomes a folder and the name of objects on a cluster; shorten it",
            )
        object.__setattr__(self, "name", name)

    @classmethod
    def open(cls, uri: str) -> Run:
        """Return the run in a directory or s3:// URI, as it lies there now.

        Raises:
            UserError: there is no run.
        """
        store = open_store(uri)
        if not store.exists(RECIPE):
            raise UserError(
                "there is no run here",
                code="VT-USE-097",
                where=store.uri,
                remedy="give the directory <storage.root>/<run>",
            )
        recipe = parse_recipe(store.read(RECIPE).decode(errors="replace"), f"{store.uri}/{RECIPE}")
        root, _, name = store.uri.rstrip("/").rpartition("/")
        # It may have been moved since its recipe was written.
        storage = recipe.storage.model_copy(update={"root": root or "/"})
        return cls(recipe.model_copy(update={"storage": storage}), name)

    @cached_property
    def store(self) -> Store:
        """The store that holds the run, and others of the same root."""
        return open_store(self.recipe.storage.root, endpoint=self.recipe.storage.endpoint)

    def store_trying(self, seconds: float) -> Store:
        """Return the store, opened to give up on a server that has been away for so many
        seconds."""
        return open_store(
            self.recipe.storage.root, endpoint=self.recipe.storage.endpoint, retry_timeout=seconds
        )

    def own_store(self) -> Store:
        """Return a store whose keys begin in the run's folder."""
        return open_store(
            f"{self.recipe.storage.root.rstrip('/')}/{self.name}",
            endpoint=self.recipe.storage.endpoint,
        )

    @property
    def is_local(self) -> bool:
        """Whether the store is a directory of this machine."""
        return is_local(self.recipe.storage.root)

    def key(self, *parts: str) -> str:
        """Return the key of a part of the run; without any, of the run itself."""
        return "/".join((self.name, *parts))

    def uri(self, *parts: str) -> str:
        """Return the URI of a part of the run."""
        return self.store.uri_of(self.key(*parts))

    @property
    def dir(self) -> Path:
        """Local directory: ``<root>/<run>``, or below the cache when the root is on S3."""
        return (
            local_path(self.recipe.storage.root) / self.name
            if self.is_local
            else cache_dir() / "runs" / self.name
        )

    @property
    def raw_dir(self) -> Path:
        """Where the fetched data lie: ``registry.json`` and the media."""
        return self.dir / "data_fetch" / "raw"

    @property
    def corpus_dir(self) -> Path:
        """Where the prepared corpus lies."""
        return self.dir / "prepare" / "corpus"

    def logs_dir(self, step: str = "") -> Path:
        """Return the directory of a step's logs, or of the whole run's when no step is named."""
        return self.dir / step / "logs"

    def present_raw(self) -> Path:
        """Return the fetched data as a local folder, downloaded once per node if another machine
        fetched them."""
        return self._present("data_fetch", self.raw_dir)

    def present_corpus(self, *, media: bool = True) -> Path:
        """Return the prepared corpus as a local folder.

        Args:
            media: see to it that the media it names are there too; tokenizer and units need none.
        """
        if media:
            self.present_raw()
        return self._present("prepare", self.corpus_dir)

    def _present(self, step: str, folder: Path) -> Path:
        if self.is_local:
            return folder
        manifest = self.final(step)
        return (
            fetch_tree(manifest.files, folder, endpoint=self.recipe.storage.endpoint)
            if manifest
            else folder
        )

    def final(self, step: str) -> Manifest | None:
        """Return what a step committed, its files where the run lies now; None if it is not done.

        Raises:
            CheckpointError: its ``final.json`` is damaged.
        """
        manifest = read_final(self.store, self.key(step))
        return follow_move(manifest, self.store, self.name) if manifest else None

    def final_key(self, step: str) -> str:
        """Return the key of a step's ``final.json``."""
        return final_key(self.key(step))

    def final_uri(self, step: str) -> str:
        """Return the URI of a step's ``final.json``."""
        return self.store.uri_of(self.final_key(step))

    def commit(self, step: str, manifest: Manifest) -> None:
        """Write a step's ``final.json``, whole or not at all; one that is there is replaced."""
        write_final(self.store, self.key(step), manifest)

    def remembered(self) -> Run:
        """Return the run with what earlier commands gave its stages: extensions and accepted
        gates."""
        key = self.key(RECIPE)
        if not self.store.exists(key):
            return self
        try:
            earlier = parse_recipe(self.store.read(key).decode(), key)
        except (UserError, UnicodeDecodeError):  # of another version: nothing can be carried over
            return self
        return Run(remember(self.recipe, earlier), self.name)

    def write_recipe(self) -> None:
        """Write the resolved recipe to ``<run>/recipe.yaml``, unless it stands there already."""
        text = dump_recipe(self.recipe).encode()
        if not self.store.exists(self.key(RECIPE)) or self.store.read(self.key(RECIPE)) != text:
            self.store.write(self.key(RECIPE), text)
