"""Parts that several machines make beside each other, handed over in a store."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from vita_train.storage.base import Store
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.scratch import scratch_folder
from vita_train.storage.tar_shards import pack, unpack


class PartExchange:
    """Parts by their keys, each a tar that is there whole or not at all.

    What is there is listed once, when it is first asked for.

    Args:
        store: of the run.
        prefix: of their keys in it.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    @cached_property
    def _there(self) -> set[str]:
        return {Path(key).stem for key in self._store.list(f"{self._prefix}/")}

    def has(self, key: str) -> bool:
        """Say whether a part is there."""
        return key in self._there

    def get(self, key: str, folder: Path) -> None:
        """Unpack a part into a folder."""
        with translate_os_errors(folder), scratch_folder(folder.parent, folder.name) as scratch:
            path = scratch / "part.tar"
            self._store.download(self._key(key), path)
            unpack(path, folder)

    def put(self, key: str, folder: Path) -> None:
        """Store a part, unless it is there."""
        if self.has(key):
            return
        with translate_os_errors(folder), scratch_folder(folder.parent, key) as scratch:
            path = scratch / "part.tar"
            # Sorted: the same part is the same tar, whichever machine made it
            pack(path, folder, sorted(folder.iterdir()))
            self._store.upload(path, self._key(key), move=True)
        self._there.add(key)

    def clear(self) -> None:
        """Remove all parts."""
        self.prune(())

    def prune(self, kept: Collection[str]) -> None:
        """Remove the parts that are not kept."""
        gone = self._there - set(kept)
        self._store.delete([self._key(key) for key in sorted(gone)])
        self._there.difference_update(gone)

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}.tar"
