"""Media in tar shards: where each file lies in them, and files read by range through a cache of the
node.

A file is named by the digest that an index keeps of it, so that what several records or splits name
is packed once, and nothing but these digests has to be known to find it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from vita_train.console import warn
from vita_train.data.media.door import DIGEST_BYTES
from vita_train.errors import DataError
from vita_train.storage.base import FileRef, Store
from vita_train.storage.bounded_cache import BoundedCache, removed_after
from vita_train.storage.digest import sha256_file
from vita_train.storage.factory import open_file
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.scratch import held_folder

TABLE = "media.arrow"
"""File of a corpus with the place of every media file, beside ``meta.json``."""
SHARD = "media-"
"""How the shards are called among the files of a manifest; their numbers follow."""
MEDIA_SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.binary(32)),
    ]
)
"""Columns of the table, one record batch sorted by ``key``, the digest that an index keeps."""
#: Requests beside each other in one process: most of a small file's time is waiting.
_TRANSFERS = 8


def key_of_digest(digest: bytes) -> int:
    """Return a digest of an index as a number, as the table sorts it."""
    return int.from_bytes(digest[:DIGEST_BYTES], "big")


class ShardedMedia:
    """The media of a corpus that was packed. It can be sent to other processes, or forked with.

    Args:
        table: the corpus' table.
        shards: the tar files, in the order of their numbers.
        endpoint: of their store.
        cache: limit of the node's cache in bytes.
    """

    def __init__(
        self, table: Path, shards: Sequence[FileRef], endpoint: str | None, cache: int
    ) -> None:
        self._arguments = (table, tuple(shards), endpoint, cache)
        self._shards = tuple(shards)
        self._endpoint = endpoint
        self._cache = BoundedCache(cache_dir() / "media", cache)
        self._batch = _read_table(table)
        self._keys = self._batch.column("key").to_numpy()
        self._of_process: _OfProcess | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardedMedia, self._arguments

    @contextmanager
    def files(self, digests: Sequence[bytes], names: Sequence[Path]) -> Iterator[list[Path]]:
        """Give local files that hold the media of some digests, for as long as the block lasts.

        Args:
            digests: of an index.
            names: of the files once; they keep their endings.

        Raises:
            DataError: a file is not in the shards, or they do not hold the bytes that were packed.
            StorageError, UserError: as `Store` says; the cache is too small for a file.
        """
        own = self._process()
        found = [self._find(digest, name) for digest, name in zip(digests, names, strict=True)]
        paths = [own.new_path(name.suffix) for name in names]
        with removed_after(paths):
            waiting = [
                own.threads.submit(self._take, place, path)
                for place, path in zip(found, paths, strict=True)
            ]
            for each in waiting:
                each.exception()  # all have ended before anything is removed
            for each in waiting:
                each.result()
            yield paths

    def pull(self, digests: Sequence[bytes]) -> None:
        """Begin to bring files into the cache that will be asked for soon. What goes wrong is told
        when they are."""
        own = self._process()
        for digest in digests:
            place = self._place(digest)
            if place is not None:
                own.bring(place, self._bring)

    def _bring(self, place: int) -> None:
        name = self._sha256(place)
        if not self._cache.has(name):
            path = self._process().new_path("")
            with removed_after([path]):
                self._cache.take(name, path, partial(self._fetch, place))

    def _place(self, digest: bytes) -> int | None:
        key = key_of_digest(digest)
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        return place if place < len(self._keys) and int(self._keys[place]) == key else None

    def _find(self, digest: bytes, name: Path) -> int:
        place = self._place(digest)
        if place is None:
            raise DataError(
                f"{name.name} is not in the shards of media",
                code="VT-DATA-085",
                where=str(self._arguments[0]),
                remedy="prepare the data again (--only prepare --force)",
            )
        return place

    def _take(self, place: int, path: Path) -> None:
        """Put a file at a path, held against its digest."""
        name = self._sha256(place)
        self._process().wait_for(place)
        if not self._cache.take(name, path, partial(self._fetch, place)):
            return  # it was checked when it came
        if sha256_file(path) != name:
            warn(f"{name} in this node's cache of media is not what it should be: fetched again")
            self._cache.drop(name)
            path.unlink()
            self._cache.take(name, path, partial(self._fetch, place))

    def _fetch(self, place: int) -> bytes:
        """Read a file out of its shard.

        Raises:
            DataError: these are not the bytes that were packed.
        """
        number, offset, size = (
            int(self._batch.column(name)[place].as_py()) for name in ("shard", "offset", "bytes")
        )
        store, key = self._process().store(self._shards[number], self._endpoint)
        data = store.read_range(key, offset, size)
        if hashlib.sha256(data).hexdigest() != self._sha256(place):
            raise DataError(
                f"does not hold at {offset} the media file that was packed (sha256 differs)",
                code="VT-DATA-086",
                where=self._shards[number].uri,
                remedy="prepare the data again (--only prepare --force)",
            )
        return data

    def _sha256(self, place: int) -> str:
        digest: bytes = self._batch.column("sha256")[place].as_py()
        return digest.hex()

    def _process(self) -> _OfProcess:
        """What this process has for itself: a fork must not share its parent's connections."""
        if self._of_process is None or self._of_process.pid != os.getpid():
            self._of_process = _OfProcess(self._cache.folder)
        return self._of_process


class _OfProcess:
    """Connections, threads and a folder of links of one process."""

    def __init__(self, folder: Path) -> None:
        self.pid = os.getpid()
        self.threads = ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="media")
        self._ahead = ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="media-ahead")
        self._links, self._handle = held_folder(folder / "links", "of")
        self._numbers = count()
        self._stores: dict[str, Store] = {}
        self._coming: dict[int, Future[None]] = {}
        self._lock = Lock()

    def new_path(self, suffix: str) -> Path:
        """Return a path for a link."""
        return self._links / f"{next(self._numbers)}{suffix}"

    def store(self, file: FileRef, endpoint: str | None) -> tuple[Store, str]:
        """Return the store of a file and its key there."""
        root, _, key = file.uri.rpartition("/")
        with self._lock:
            if root not in self._stores:
                self._stores[root] = open_file(file.uri, endpoint=endpoint)[0]
            return self._stores[root], key

    def bring(self, place: int, work: Callable[[int], None]) -> None:
        """Begin to bring a file, unless it is on its way."""
        with self._lock:
            if place not in self._coming:
                self._coming[place] = self._ahead.submit(self._brought, place, work)

    def _brought(self, place: int, work: Callable[[int], None]) -> None:
        try:
            with suppress(Exception):  # whoever needs the file will meet it again
                work(place)
        finally:
            with self._lock:
                self._coming.pop(place, None)

    def wait_for(self, place: int) -> None:
        """Wait for a file that is on its way; one that only waits its turn is left to the
        caller."""
        with self._lock:
            future = self._coming.get(place)
            if future is not None and future.cancel():
                del self._coming[place]
                return
        if future is not None:
            future.result()


def shards_of(files: Mapping[str, FileRef]) -> list[FileRef]:
    """Return the shards of media among the files of a manifest, in the order of their numbers."""
    return [files[name] for name in sorted(files) if name.startswith(SHARD)]


def _read_table(path: Path) -> pa.RecordBatch:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema.equals(MEDIA_SCHEMA):
            return reader.get_batch(0)
        fault = "its columns are others"
    except (OSError, pa.ArrowException) as error:
        fault = str(error)
    raise DataError(
        f"the table of media shards cannot be read: {fault}",
        code="VT-DATA-087",
        where=str(path),
        remedy="prepare the data again (--only prepare --force)",
    )
