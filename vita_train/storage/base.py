"""What a store is: whole files under relative keys, on a local disk or on S3.

Both kinds promise the same: a key is either absent or holds all of the bytes of one write, and a
failure is an error that names the URI. Nothing else is assumed, no rename, no append, no locking,
so that any S3 server will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from vita_train.errors import EXIT_REFUSED, StorageError, UserError
from vita_train.recipe.base import Strict


class FileRef(Strict):
    """A file in a store."""

    uri: str
    """``file:///...`` (or a plain path) or ``s3://bucket/key``."""
    sha256: str
    bytes: int


#: Names the stores use for themselves (unfinished files, probes); never part of a listing.
PRIVATE = ".vita-tmp-"


class MissingKeyError(StorageError):
    """There is nothing under the key. Trying again does not help."""

    exit_code = EXIT_REFUSED


class KeyExistsError(StorageError):
    """A write that asked for an absent key found one that holds other bytes."""

    exit_code = EXIT_REFUSED


class DamagedError(StorageError):
    """The bytes under a key are not those that were promised (size or sha256 differ)."""

    exit_code = EXIT_REFUSED


class Store(Protocol):
    """Files under relative keys with '/' between their parts.

    Every method raises StorageError (away for now: retry) or UserError (credentials, bucket, disk
    space: fix first), and both name the URI.
    """

    @property
    def uri(self) -> str:
        """URI of the store's root, without a slash at the end."""
        ...

    def uri_of(self, key: str) -> str:
        """Return the URI of a key."""
        ...

    def read(self, key: str) -> bytes:
        """Return the bytes under a key.

        Raises:
            MissingKeyError: there is none.
        """
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return a stretch of the bytes under a key.

        Raises:
            MissingKeyError: there are none.
            DamagedError: they end before it does.
        """
        ...

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write a small file, whole or not at all.

        Args:
            key: where.
            data: all of it.
            if_absent: refuse to replace other bytes; writing the same bytes again is no conflict,
                so that a write whose answer was lost can be repeated.

        Raises:
            KeyExistsError: `if_absent`, and the key holds other bytes.
        """
        ...

    def upload(self, path: Path, key: str, *, move: bool = False) -> FileRef:
        """Store a local file under a key, whole or not at all, and return its URI, sha256 and size
        in bytes.

        Args:
            path: the file.
            key: where.
            move: the file belongs to the store from now on; a local store renames it instead of
                copying.
        """
        ...

    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        """Write the bytes under a key to a local file, whole or not at all.

        Raises:
            MissingKeyError: there are none.
            DamagedError: their sha256 is another one.
        """
        ...

    def exists(self, key: str) -> bool:
        """Say whether a key holds a file."""
        ...

    def size(self, key: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            MissingKeyError: there is none.
        """
        ...

    def version(self, key: str) -> str:
        """Return what changes when the content under a key does, without reading a large object:
        a digest on a disk, the ETag on S3.

        Raises:
            MissingKeyError: there is none.
        """
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Return the keys that begin with a string, sorted by code point."""
        ...

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the keys that begin with a string, sorted, with the sizes of their files in bytes;
        one listing, however many they are."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; keys that are absent already are no error."""
        ...

    def sweep(
        self, prefix: str = "", *, older_than: timedelta = timedelta(0), dry_run: bool = False
    ) -> tuple[str, ...]:
        """Remove what writers that died left unfinished below a prefix: uploads that take space and
        are no files yet.

        Args:
            prefix: of keys, up to a slash; empty takes the whole store.
            older_than: leave what began within this time. Where someone may be writing, longer than
                any upload takes.
            dry_run: remove nothing.

        Returns:
            The keys of what was removed, or would be, sorted: on S3 those it was to have.
        """
        ...


def whole_range(data: bytes, start: int, length: int, uri: str) -> bytes:
    """Return a stretch that was read, if it is all that was asked for.

    Raises:
        DamagedError: it is not.
    """
    if len(data) != length:
        raise DamagedError(
            f"gave {len(data)} bytes at {start}, {length} were asked for",
            code="VT-STORE-014",
            where=uri,
            remedy="run the step that made it again",
        )
    return data


def is_local(uri: str) -> bool:
    """Say whether a URI is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """Return the absolute path of a local URI.

    Raises:
        UserError: the URI is of another kind.
    """
    if not is_local(uri):
        raise UserError(
            f"cannot open {uri.partition('://')[0]}:// URIs",
            code="VT-USE-098",
            where=uri,
            remedy="use a local path, file:// or s3://",
        )
    # Two characters at least before the colon: C:/ is a drive
    if re.match("[a-z][a-z0-9]+:/(?!/)", uri, re.IGNORECASE):
        raise UserError(
            "looks like a URI with a slash too few",
            code="VT-USE-290",
            where=uri,
            remedy="write two slashes after the colon; a folder of this name is ./" + uri,
        )
    path = unquote(urlsplit(uri).path) if uri.startswith("file://") else uri
    return Path(path).expanduser().absolute()


def check_key(key: str) -> str:
    """Return a key that is safe to join to a root.

    Raises:
        UserError: it is absolute, empty, or has parts such as ``..``.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(PRIVATE) for part in parts) or "\0" in key:
        raise UserError(
            "not a key: parts must be names separated by single slashes",
            code="VT-USE-099",
            where=repr(key),
        )
    return key
