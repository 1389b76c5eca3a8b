"""From a URI to the store it names."""

from __future__ import annotations

from vita_train.credentials import REMEDY, holds_credentials
from vita_train.errors import UserError
from vita_train.storage.base import Store, local_path


def open_store(
    uri: str, *, endpoint: str | None = None, retry_timeout: float | None = None
) -> Store:
    """Open a store.

    Args:
        uri: a local path, ``file:///path`` or ``s3://bucket/prefix``.
        endpoint: URL of the S3 server when it is not AWS; without it AWS_ENDPOINT_URL counts.
        retry_timeout: seconds for which an S3 server that is away is tried again; `S3Store` says
            how many by default.

    Raises:
        UserError: the URI is of another kind.
    """
    for url in filter(None, (uri, endpoint)):
        if holds_credentials(url) or (url.startswith("s3://") and "@" in url[5:].partition("/")[0]):
            raise UserError(
                "holds a user, a password or a key inside a URL",
                code="VT-USE-105",
                where=url,
                remedy=REMEDY,
            )
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme == "s3":
        from vita_train.storage.s3 import S3Store

        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise UserError(
                "the URI names no bucket",
                code="VT-USE-106",
                where=uri,
                remedy="write s3://<bucket>/<prefix>",
            )
        return S3Store(bucket, prefix.strip("/"), endpoint=endpoint, retry_timeout=retry_timeout)
    from vita_train.storage.local import LocalStore

    return LocalStore(local_path(uri))


def open_file(uri: str, *, endpoint: str | None = None) -> tuple[Store, str]:
    """Return the store a file's URI lies in and the file's key there."""
    root, _, key = uri.rpartition("/")
    if not key:
        raise UserError("the URI names no file", code="VT-USE-107", where=uri)
    return open_store(root or ("/" if uri.startswith("/") else "."), endpoint=endpoint), key
