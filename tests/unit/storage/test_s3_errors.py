"""What the reader is told when S3 does not do what was asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.errors import raises_code
from tests.helpers.s3_server import S3Server
from vita_train.errors import EXIT_REFUSED, EXIT_RETRYABLE, StorageError, UserError
from vita_train.storage.s3 import S3Store


@pytest.mark.parametrize("verb", ["read", "exists", "size", "write", "list", "delete"])
def test_vanished_bucket(s3_server: S3Server, s3_credentials: None, verb: str) -> None:
    store = S3Store("no-such-bucket", "x", endpoint=s3_server.endpoint, attempts=2)
    calls = {"write": ("key", b""), "list": ("",), "delete": (["key"],)}
    facts = ("'no-such-bucket'", "s3://no-such-bucket/x")
    with raises_code(UserError, "VT-USE-111", *facts) as caught:
        getattr(store, verb)(*calls.get(verb, ("key",)))
    assert caught.value.remedy


@pytest.mark.parametrize("verb", ["read", "exists", "write", "list"])
def test_wrong_secret(
    s3_store: S3Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    if s3_server.kind == "moto":
        pytest.skip("moto does not check signatures")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    store = S3Store(s3_store.bucket, "x", endpoint=s3_server.endpoint, attempts=2)
    calls = {"write": ("key", b""), "list": ("",)}
    with pytest.raises(UserError) as caught:
        getattr(store, verb)(*calls.get(verb, ("key",)))
    assert caught.value.exit_code == EXIT_REFUSED
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
    assert "not-the-secret" not in str(caught.value)


def test_no_credentials(
    s3_server: S3Server,
    s3_credentials: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    with raises_code(UserError, "VT-USE-109"):
        S3Store("bucket", "x", endpoint=s3_server.endpoint).list()


def test_nothing_listens(s3_credentials: None) -> None:
    store = S3Store("bucket", "x", endpoint="http://127.0.0.1:1", attempts=1, retry_timeout=0)
    facts = ("http://127.0.0.1:1", "s3://bucket/x/key")
    with raises_code(StorageError, "VT-STORE-005", *facts) as caught:
        store.read("key")
    assert caught.value.exit_code == EXIT_RETRYABLE


@pytest.mark.parametrize("endpoint", ["no-scheme:9000", "http://"])
def test_malformed_endpoint(s3_credentials: None, endpoint: str) -> None:
    with pytest.raises(UserError) as caught:
        S3Store("bucket", endpoint=endpoint)
    assert "storage.endpoint" in caught.value.remedy


def test_a_store_that_works_says_nothing(
    s3_server: S3Server,
    s3_credentials: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    with caplog.at_level(logging.INFO):
        assert not S3Store("bucket", "x", attempts=1, retry_timeout=0).uri.endswith("/")
    assert caplog.messages == []


def test_malformed_bucket(s3_server: S3Server, s3_credentials: None) -> None:
    with pytest.raises(UserError):
        S3Store("No Bucket!", endpoint=s3_server.endpoint).list()


class _Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def broken_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Broken)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("verb", ["read", "exists", "list"])
def test_failing_server_is_worth_a_retry(
    broken_server: str, s3_credentials: None, verb: str
) -> None:
    store = S3Store("bucket", "x", endpoint=broken_server, attempts=1, retry_timeout=0)
    with pytest.raises(StorageError) as caught:
        getattr(store, verb)("key")
    assert type(caught.value) is StorageError
    assert "s3://bucket/x" in str(caught.value)
