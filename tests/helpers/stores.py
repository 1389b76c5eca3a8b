"""Stores of both kinds, empty, for each test."""

from __future__ import annotations

import uuid
from pathlib import Path

import boto3
import pytest

from tests.helpers.s3_server import S3Server
from vita_train.storage.base import Store
from vita_train.storage.local import LocalStore
from vita_train.storage.s3 import S3Store


@pytest.fixture
def s3_store(s3_server: S3Server, s3_credentials: None) -> S3Store:
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1").create_bucket(
        Bucket=bucket
    )
    return S3Store(bucket, "some/prefix", endpoint=s3_server.endpoint, retry_timeout=5)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return request.getfixturevalue("s3_store")
