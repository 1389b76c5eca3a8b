"""A store on S3, or on anything that speaks its protocol.

Servers differ: some lower-case metadata, some make their ETag from other things than MD5, some
ignore conditional writes. So nothing here is read from metadata or ETags, hashes are ours, and a
conditional write is trusted only after a probe has shown that the server refuses the second of two.

boto3 repeats a request that fails, up to a budget that all threads share; a body that breaks off
after its first bytes it does not repeat. So every operation here is repeated as a whole, for as
long as the store is patient.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from vita_train.credentials import REMEDY, holds_credentials
from vita_train.errors import StorageError, UserError
from vita_train.storage.base import (
    PRIVATE,
    DamagedError,
    FileRef,
    KeyExistsError,
    MissingKeyError,
    check_key,
    whole_range,
)
from vita_train.storage.digest import HashingReader, sha256_file
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.local import flush, private_file
from vita_train.storage.retry import retrying
from vita_train.storage.s3_answers import checked, checked_items
from vita_train.storage.s3_errors import (
    S3_ERRORS,
    bucket_is_missing,
    code_of,
    is_conflict,
    is_missing,
    translate,
)

T = TypeVar("T")

MIB = 1 << 20
#: Bytes of one part of a large file, and the most parts S3 allows.
PART_BYTES = 64 * MIB
MAX_PARTS = 10_000
#: Parts held in memory while a file goes up: 4 x 64 MiB a process.
PARTS_IN_MEMORY = 4
#: Most keys of one delete request.
DELETE_BATCH = 1000
#: Seconds for which an operation is tried again while the server is away.
RETRY_TIMEOUT = 120.0

# At INFO, as Kubeflow Pipelines' executor sets it, every client tells where its credentials and
# endpoint came from.
for _talker in ("botocore.credentials", "botocore.configprovider"):
    logging.getLogger(_talker).setLevel(logging.WARNING)


@dataclass(frozen=True)
class OpenedRange:
    """The rest of a file from an offset on."""

    version: str
    """The server's ETag: it tells this content from others under the key, and no more."""
    chunks: Iterator[bytes]
    """Raises StorageError where the transfer breaks off."""


class S3Store:
    """Files below a prefix of a bucket.

    Args:
        bucket: its name.
        prefix: where the store's root lies, without slashes at its ends; may be empty.
        endpoint: URL of the server when it is not AWS. Credentials come from the environment, as
            boto3 reads them.
        retry_timeout: seconds for which an operation is tried again while the server is away;
            RETRY_TIMEOUT when not given.
        attempts: tries of one request within each of these.
        connect_timeout: seconds to wait for a connection.
        read_timeout: seconds to wait for an answer.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        retry_timeout: float | None = None,
        attempts: int = 4,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._retry_timeout = RETRY_TIMEOUT if retry_timeout is None else retry_timeout
        # boto3 reads these as well; known here for the style of addresses and for messages
        custom = (
            endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        )
        if custom and holds_credentials(custom):
            raise UserError(
                "holds a user, a password or a key inside a URL",
                code="VT-USE-108",
                where=custom,
                remedy=REMEDY,
            )
        self._server = custom or "AWS"
        with self._translate_s3_errors(""):
            session = boto3.session.Session()
            self._client: Any = session.client(
                "s3",
                endpoint_url=endpoint,
                # Requests are signed for some region, and servers that are not AWS do not care
                # which
                region_name=session.region_name or "us-east-1",
                config=Config(
                    signature_version="s3v4",
                    # Bucket names as host names need a DNS entry each, which other servers seldom
                    # have
                    s3={"addressing_style": "path"} if custom else None,
                    retries={"mode": "adaptive", "total_max_attempts": attempts},
                    connect_timeout=connect_timeout,
                    read_timeout=read_timeout,
                    max_pool_connections=32,
                    # Checksum trailers are a newer addition that other servers do not all take; our
                    # hashes do not
                    # depend on them.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def uri_of(self, key: str) -> str:
        return f"{self.uri}/{check_key(key)}"

    def read(self, key: str) -> bytes:
        name = self._key(key)
        return self._ask(
            key,
            lambda: bytes(
                checked(self._client.get_object(Bucket=self.bucket, Key=name), self.uri_of(key))[
                    "Body"
                ].read()
            ),
        )

    def read_range(self, key: str, start: int, length: int) -> bytes:
        name, uri = self._key(key), self.uri_of(key)
        # HTTP ranges include their last byte
        asked = f"bytes={start}-{start + length - 1}"

        def answer() -> bytes:
            got = self._client.get_object(Bucket=self.bucket, Key=name, Range=asked)
            return bytes(checked(got, uri)["Body"].read())

        return whole_range(self._ask(key, answer), start, length, uri)

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if if_absent:
            self._write_if_absent(key, data)
            return
        name = self._key(key)
        self._ask(
            key,
            lambda: checked(
                self._client.put_object(Bucket=self.bucket, Key=name, Body=data), self.uri_of(key)
            ),
        )

    def _write_if_absent(self, key: str, data: bytes) -> None:
        name = self._key(key)
        if self.honours_conditions:
            # Refused is someone's write, or ours whose answer was lost: the bytes tell.
            with suppress(KeyExistsError):
                self._ask(
                    key,
                    lambda: checked(
                        self._client.put_object(
                            Bucket=self.bucket, Key=name, Body=data, IfNoneMatch="*"
                        ),
                        self.uri_of(key),
                    ),
                )
                return
        elif not self.exists(key):
            self.write(key, data)
        # Without conditions, of several that found nothing the last one wins, and the others see
        # that here.
        if self.read(key) != data:
            raise KeyExistsError(
                "is there already, written by someone else",
                code="VT-STORE-029",
                where=self.uri_of(key),
                remedy="do not start one run twice at the same time",
            )

    @cached_property
    def honours_conditions(self) -> bool:
        """Whether the server refuses ``If-None-Match: *`` for a key that is taken, found out by
        trying."""
        return self._ask("", self._probe)

    def _probe(self) -> bool:
        key = f"{self.prefix}/{PRIVATE}{uuid.uuid4().hex}".lstrip("/")
        try:
            self._client.put_object(Bucket=self.bucket, Key=key, Body=b"1")
            self._client.put_object(Bucket=self.bucket, Key=key, Body=b"2", IfNoneMatch="*")
        except ClientError as error:
            if is_conflict(error) or code_of(error) == "NotImplemented":
                return is_conflict(error)
            raise
        finally:
            with suppress(*S3_ERRORS):  # what went wrong before says more
                self._client.delete_object(Bucket=self.bucket, Key=key)
        return False

    def upload(self, path: Path, key: str, *, move: bool = False) -> FileRef:
        ref = self._ask(key, lambda: self._upload(path, key))
        if move:
            path.unlink(missing_ok=True)
        return ref

    def _upload(self, path: Path, key: str) -> FileRef:
        name = self._key(key)
        with translate_os_errors(path):
            size = path.stat().st_size
            file = path.open("rb")
        with file:
            # Hashed as it is sent: the digest is of what went over the wire, not of a second
            # reading
            reader = HashingReader(file)
            with translate_os_errors(path), self._translate_s3_errors(key):
                self._client.upload_fileobj(reader, self.bucket, name, Config=_transfer(size))
        stored = self._size(key)
        if stored != reader.count:
            raise DamagedError(
                f"has {stored} bytes, {reader.count} were sent",
                code="VT-STORE-030",
                where=self.uri_of(key),
                remedy="find out what else writes there, then run the same command again",
            )
        return FileRef(uri=self.uri_of(key), sha256=reader.sha256(), bytes=reader.count)

    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        try:
            self._ask(key, lambda: self._download(key, path, sha256))
        except DamagedError:  # on the server, or only on the way here
            self._ask(key, lambda: self._download(key, path, sha256))

    def _download(self, key: str, path: Path, sha256: str | None) -> None:
        with translate_os_errors(path), private_file(path) as (temporary, file):
            with self._translate_s3_errors(key):
                self._client.download_fileobj(
                    self.bucket, self._key(key), file, Config=_transfer(0)
                )
            flush(file)
            # From disk, not as it came: parts arrive in any order
            found = sha256_file(temporary) if sha256 is not None else None
            if found != sha256:
                raise DamagedError(
                    f"has sha256 {found}, expected {sha256}",
                    code="VT-STORE-031",
                    where=self.uri_of(key),
                    remedy="run the step that made it again",
                )
            os.replace(temporary, path)

    def open_range(self, key: str, start: int, buffer: int) -> OpenedRange:
        """Begin to read a file at an offset, in pieces of at most ``buffer`` bytes.

        Raises:
            MissingKeyError: there is none.
        """
        name = self._key(key)
        answer = self._ask(
            key,
            lambda: checked(
                self._client.get_object(Bucket=self.bucket, Key=name, Range=f"bytes={start}-")
                if start
                else self._client.get_object(Bucket=self.bucket, Key=name),
                self.uri_of(key),
            ),
        )
        return OpenedRange(str(answer.get("ETag", "")), self._chunks(key, answer["Body"], buffer))

    def _chunks(self, key: str, body: Any, buffer: int) -> Iterator[bytes]:
        with self._translate_s3_errors(key):
            yield from body.iter_chunks(buffer)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except MissingKeyError:
            return False
        return True

    def size(self, key: str) -> int:
        return self._ask(key, lambda: self._size(key))

    def _size(self, key: str) -> int:
        answer = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        return int(checked(answer, self.uri_of(key))["ContentLength"])

    def version(self, key: str) -> str:
        return self._ask(key, lambda: self._version(key))

    def _version(self, key: str) -> str:
        answer = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        answer = checked(answer, self.uri_of(key))
        return f"{str(answer['ETag']).strip(chr(34))}-{answer['ContentLength']}"

    def list(self, prefix: str = "") -> list[str]:
        return [*self.sizes(prefix)]

    def sizes(self, prefix: str = "") -> dict[str, int]:
        root = f"{self.prefix}/" if self.prefix else ""
        found = {
            item["Key"].removeprefix(root): int(item.get("Size", -1))
            for item in self._pages("list_objects_v2", "Contents", root + prefix)
        }
        # Keys that end in a slash are the folders of POSIX-backed servers.
        return {
            key: found[key] for key in sorted(found) if not key.endswith("/") and PRIVATE not in key
        }

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._key(key) for key in keys]
        for start in range(0, len(names), DELETE_BATCH):
            self._ask("", partial(self._delete, names[start : start + DELETE_BATCH]))

    def _delete(self, names: Iterable[str]) -> None:
        answer = self._client.delete_objects(
            Bucket=self.bucket, Delete={"Objects": [{"Key": name} for name in names], "Quiet": True}
        )
        # Status 200 all the same: what was not deleted stands in the body alone
        refused = [item for item in answer.get("Errors", []) if item.get("Code") != "NoSuchKey"]
        if refused:
            raise ClientError({"Error": refused[0]}, "DeleteObjects")

    def sweep(
        self, prefix: str = "", *, older_than: timedelta = timedelta(0), dry_run: bool = False
    ) -> tuple[str, ...]:
        root = f"{self.prefix}/" if self.prefix else ""
        # With the slash: run-1 must not take run-10's uploads along
        below = f"{self._key(prefix)}/" if prefix else root
        stale = [
            upload
            for upload in self._pages("list_multipart_uploads", "Uploads", below)
            if not older_than or datetime.now(UTC) - upload["Initiated"] >= older_than
        ]
        for upload in () if dry_run else stale:
            self._ask("", partial(self._abort, upload["Key"], upload["UploadId"]))
        return tuple(sorted(upload["Key"].removeprefix(root) for upload in stale))

    def _abort(self, name: str, upload_id: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=name, UploadId=upload_id)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":  # finished or aborted since it was listed
                raise

    def _pages(self, operation: str, member: str, prefix: str) -> tuple[dict[str, Any], ...]:
        """Return all that a listing of the bucket has to say below a prefix."""
        pages = self._client.get_paginator(operation)
        return self._ask(
            "",
            lambda: checked_items(
                pages.paginate(Bucket=self.bucket, Prefix=prefix), member, prefix, self.uri
            ),
        )

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    def _ask(self, key: str, work: Callable[[], T]) -> T:
        """Return what a request returns, trying again while the server is away."""

        def translated_work() -> T:
            with self._translate_s3_errors(key):
                return work()

        return retrying(translated_work, self._retry_timeout)

    @contextmanager
    def _translate_s3_errors(self, key: str) -> Iterator[None]:
        """Turn boto3's errors into ours, with the URI in them."""
        uri = self.uri_of(key) if key else self.uri
        try:
            yield
        except S3_ERRORS as error:
            if is_missing(error) and not self._bucket_is_missing(error):
                raise MissingKeyError(
                    "does not exist",
                    code="VT-STORE-032",
                    where=uri,
                    remedy="run the step that made it again",
                ) from error
            if is_conflict(error):
                raise KeyExistsError(
                    "is there already",
                    code="VT-STORE-033",
                    where=uri,
                    remedy="do not start one run twice at the same time",
                ) from error
            raise translate(error, uri, self.bucket, self._server) from error

    def _bucket_is_missing(self, error: Exception) -> bool:
        """A HEAD answers 404 without saying what is missing: ask for the bucket itself."""
        if bucket_is_missing(error):
            return True
        try:
            self._client.head_bucket(Bucket=self.bucket)
        except S3_ERRORS as second:
            if is_missing(second):
                return True
            raise StorageError(
                "cannot tell whether the bucket is there",
                code="VT-STORE-003",
                where=self.uri,
                remedy="run the same command again",
            ) from second
        return False


def _transfer(size: int) -> TransferConfig:
    """Return how a file of `size` bytes is cut: parts of 64 MiB, larger ones when there would be
    too many."""
    part = max(PART_BYTES, -(-size // MAX_PARTS // MIB) * MIB)
    config = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=16)
    config.max_in_memory_upload_chunks = PARTS_IN_MEMORY
    return config
