"""Objects on S3, by the store that runs use, with its credentials and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vita_train.data.catalogue.entry import S3Files
from vita_train.data.fetch.origin import BUFFER, AwayError, Body, RemoteFile
from vita_train.data.fetch.patterns import chosen, within
from vita_train.errors import EXIT_RETRYABLE, StorageError
from vita_train.storage.s3 import S3Store


@dataclass(frozen=True)
class S3Origin:
    """An object."""

    store: S3Store
    key: str

    @property
    def host(self) -> str:
        return f"s3://{self.store.bucket}"

    @property
    def where(self) -> str:
        return self.store.uri_of(self.key)

    def open(self, start: int, validator: str) -> Body:
        size = self.probe()
        if start and start == size:
            return Body(start, size, validator, iter(()))
        try:
            found = self.store.open_range(self.key, start, BUFFER)
            if start and validator and found.version != validator:
                found = self.store.open_range(self.key, 0, BUFFER)
                start = 0
        except StorageError as error:
            raise _passing(error) from error
        return Body(start, size, found.version, self._chunks(found.chunks))

    def _chunks(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from chunks
        except StorageError as error:
            raise _passing(error) from error

    def probe(self) -> int | None:
        try:
            return self.store.size(self.key)
        except StorageError as error:
            raise _passing(error) from error


def _passing(error: StorageError) -> Exception:
    """Return what a transfer tries again, if the store's error is of that kind."""
    return AwayError(error.what) if error.exit_code == EXIT_RETRYABLE else error


def resolve_s3(place: S3Files) -> list[RemoteFile]:
    """Return the objects that a place names.

    Raises:
        UserError: access is refused, or there is no such object.
        StorageError: the server stayed away.
    """
    bucket, _, rest = place.uri.removeprefix("s3://").partition("/")
    prefix, _, single = rest.rpartition("/")
    store = S3Store(bucket, prefix, endpoint=place.endpoint)
    names = [single] if single else chosen(store.list(), place.files, place.uri)
    return [
        RemoteFile(
            within(place.to, name, place.uri),
            S3Origin(store, name),
            unpack=place.unpack,
            inside=place.inside,
        )
        for name in names
    ]
