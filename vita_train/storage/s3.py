"""A store on S3, or on anything that speaks its protocol.

Servers differ: some lower-case metadata, some make their ETag from other things than MD5, some ignore conditional
writes. So nothing here is read from metadata or ETags, hashes are ours, and a conditional write is trusted only after
a probe has shown that the server refuses the second of two.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from vita_train.errors import StorageError
from vita_train.manifest import FileRef
from vita_train.storage.digest import HashingReader, sha256_file
from vita_train.storage.local import flush, private_file, told
from vita_train.storage.s3_errors import S3_ERRORS, bucket_is_missing, is_conflict, is_missing, translate
from vita_train.storage.store import PRIVATE, DamagedError, KeyExistsError, MissingKeyError, check_key

MIB = 1 << 20
#: Bytes of one part of a large file, and the most parts S3 allows.
PART_BYTES = 64 * MIB
MAX_PARTS = 10_000
#: Parts held in memory while a file goes up: 4 x 64 MiB a process.
PARTS_IN_MEMORY = 4
#: Most keys of one delete request.
DELETE_BATCH = 1000


class S3Store:
    """Files below a prefix of a bucket.

    Args:
        bucket: its name.
        prefix: where the store's root lies, without slashes at its ends; may be empty.
        endpoint: URL of the server when it is not AWS. Credentials come from the environment, as boto3 reads them.
        attempts: tries of one request before it fails, waiting longer each time.
        connect_timeout: seconds to wait for a connection.
        read_timeout: seconds to wait for an answer.
    """

    def __init__(self, bucket: str, prefix: str = "", *, endpoint: str | None = None, attempts: int = 8,
                 connect_timeout: float = 10.0, read_timeout: float = 60.0) -> None:
        self.bucket = bucket
        self.prefix = prefix
        custom = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._server = custom or "AWS"
        with self._told(""):
            session = boto3.session.Session()
            self._client: Any = session.client(
                "s3",
                endpoint_url=endpoint,
                region_name=session.region_name or "us-east-1",
                config=Config(
                    signature_version="s3v4",
                    s3={"addressing_style": "path"} if custom else None,
                    retries={"mode": "adaptive", "total_max_attempts": attempts},
                    connect_timeout=connect_timeout,
                    read_timeout=read_timeout,
                    max_pool_connections=32,
                    # Checksum trailers are a newer addition that other servers do not all take; our hashes do not
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
        with self._told(key):
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read())

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        if if_absent:
            self._write_if_absent(key, data)
            return
        with self._told(key):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def _write_if_absent(self, key: str, data: bytes) -> None:
        try:
            if self.honours_conditions:
                with self._told(key):
                    self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
                return
            if not self.exists(key):
                self.write(key, data)
        except KeyExistsError:
            pass  # someone's write, or ours whose answer was lost: the bytes tell
        # Without conditions, of several that found nothing the last one wins, and the others see that here.
        if self.read(key) != data:
            raise KeyExistsError("is there already, written by someone else", where=self.uri_of(key))

    @cached_property
    def honours_conditions(self) -> bool:
        """Whether the server refuses ``If-None-Match: *`` for a key that is taken, found out by trying."""
        key = f"{self.prefix}/{PRIVATE}{uuid.uuid4().hex}".lstrip("/")
        with self._told(""):
            try:
                self._client.put_object(Bucket=self.bucket, Key=key, Body=b"1")
                self._client.put_object(Bucket=self.bucket, Key=key, Body=b"2", IfNoneMatch="*")
            except ClientError as error:
                if is_conflict(error) or error.response.get("Error", {}).get("Code") == "NotImplemented":
                    return is_conflict(error)
                raise
            finally:
                self._client.delete_object(Bucket=self.bucket, Key=key)
        return False

    def upload(self, path: Path, key: str, *, move: bool = False) -> FileRef:
        with told(path):
            size = path.stat().st_size
            file = path.open("rb")
        with file:
            reader = HashingReader(file)
            with self._told(key):
                self._client.upload_fileobj(reader, self.bucket, self._key(key), Config=_transfer(size))
        if self.size(key) != reader.count:
            raise DamagedError(f"is not the {reader.count} bytes that were sent", where=self.uri_of(key))
        if move:
            path.unlink(missing_ok=True)
        return FileRef(uri=self.uri_of(key), sha256=reader.sha256(), bytes=reader.count)

    def download(self, key: str, path: Path, *, sha256: str | None = None) -> None:
        with told(path), private_file(path) as (temporary, file):
            with self._told(key):
                self._client.download_fileobj(self.bucket, self._key(key), file, Config=_transfer(0))
            flush(file)
            found = sha256_file(temporary) if sha256 is not None else None
            if found != sha256:
                raise DamagedError(f"has sha256 {found}, expected {sha256}", where=self.uri_of(key))
            os.replace(temporary, path)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except MissingKeyError:
            return False
        return True

    def size(self, key: str) -> int:
        with self._told(key):
            return int(self._client.head_object(Bucket=self.bucket, Key=self._key(key))["ContentLength"])

    def list(self, prefix: str = "") -> list[str]:
        root = f"{self.prefix}/" if self.prefix else ""
        with self._told(""):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix)
            keys = [item["Key"].removeprefix(root) for page in pages for item in page.get("Contents", [])]
        # Keys that end in a slash are the folders of POSIX-backed servers.
        return sorted(key for key in keys if not key.endswith("/") and PRIVATE not in key)

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._key(key) for key in keys]
        for start in range(0, len(names), DELETE_BATCH):
            objects = [{"Key": name} for name in names[start:start + DELETE_BATCH]]
            with self._told(""):
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
                refused = [item for item in answer.get("Errors", []) if item.get("Code") != "NoSuchKey"]
                if refused:
                    raise ClientError({"Error": refused[0]}, "DeleteObjects")

    def sweep(self, prefix: str) -> None:
        with self._told(""):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self._key(prefix) + "/")
            for upload in [item for page in pages for item in page.get("Uploads", [])]:
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Turn boto3's errors into ours, with the URI in them."""
        uri = self.uri_of(key) if key else self.uri
        try:
            yield
        except S3_ERRORS as error:
            if is_missing(error) and not self._bucket_is_missing(error):
                raise MissingKeyError("does not exist", where=uri) from error
            if is_conflict(error):
                raise KeyExistsError("is there already", where=uri) from error
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
            raise StorageError("cannot tell whether the bucket is there", where=self.uri) from second
        return False


def _transfer(size: int) -> TransferConfig:
    """Return how a file of `size` bytes is cut: parts of 64 MiB, larger ones when there would be too many."""
    part = max(PART_BYTES, -(-size // MAX_PARTS // MIB) * MIB)
    config = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=16)
    config.max_in_memory_upload_chunks = PARTS_IN_MEMORY
    return config
