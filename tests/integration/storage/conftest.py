"""A store behind a proxy that spoils requests, the same store past the proxy, and short pauses
between tries."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.helpers.s3_faults import FaultProxy, short_pauses, spoiling
from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from vita_train.storage.s3 import S3Store


@pytest.fixture(autouse=True)
def _small_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses of milliseconds, parts as small as S3 allows, a cache of the test's own."""
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    with short_pauses():
        yield


@pytest.fixture(scope="session")
def admin(s3_server: S3Server) -> Any:
    """A client of the server itself; a session has one, for making a client takes longer than most
    tests."""
    return boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


@pytest.fixture
def bucket(admin: Any, s3_credentials: None) -> str:
    name = f"test-{uuid.uuid4().hex[:12]}"
    admin.create_bucket(Bucket=name)
    return name


@pytest.fixture
def direct(s3_server: S3Server, bucket: str) -> S3Store:
    """The store as it is, without faults."""
    return S3Store(bucket, "runs", endpoint=s3_server.endpoint)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with spoiling(s3_server.endpoint) as started:
        yield started


@pytest.fixture
def store(proxy: FaultProxy, bucket: str) -> S3Store:
    """The store behind the proxy; patient for longer than any test's passing faults take."""
    return S3Store(bucket, "runs", endpoint=proxy.endpoint)


@pytest.fixture
def hasty(proxy: FaultProxy, bucket: str) -> S3Store:
    """The store behind the proxy, for faults that last: it gives up after a second."""
    return S3Store(bucket, "runs", endpoint=proxy.endpoint, retry_timeout=1.0)
