"""Where credentials and server may come from: the environment, a mounted secret, the identity of a
pod."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.s3_faults import FaultProxy
from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY
from vita_train.errors import StorageError, UserError
from vita_train.storage.factory import open_store
from vita_train.storage.s3 import S3Store

_EXPIRES = "2099-01-01T00:00:00Z"
_ROLE = f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{ACCESS_KEY}</AccessKeyId>
<SecretAccessKey>{SECRET_KEY}</SecretAccessKey><SessionToken></SessionToken>
<Expiration>{_EXPIRES}</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
_POD = json.dumps(
    {
        "AccessKeyId": ACCESS_KEY,
        "SecretAccessKey": SECRET_KEY,
        "Token": None,
        "Expiration": _EXPIRES,
    }
)
_REFUSED = """<ErrorResponse><Error><Code>AccessDenied</Code>
<Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message>
</Error></ErrorResponse>"""


@contextmanager
def answering(status: int, text: str) -> Iterator[str]:
    """Run a server that gives one answer to everything; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def _no_keys(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without keys of its own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text("the pod's token")


def with_role(monkeypatch: pytest.MonkeyPatch, server: str, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/training")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server)


def assert_works(store: S3Store) -> None:
    store.write("a/b", b"bytes")
    assert store.read("a/b") == b"bytes"


@pytest.mark.usefixtures("_no_keys")
def test_a_secret_mounted_as_a_file(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert_works(S3Store(bucket, endpoint=proxy.endpoint))


@pytest.mark.usefixtures("_no_keys")
def test_the_role_of_a_service_account(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200, _ROLE) as server:
        with_role(monkeypatch, server, tmp_path)
        assert_works(S3Store(bucket, endpoint=proxy.endpoint))


@pytest.mark.usefixtures("_no_keys")
def test_the_identity_agent_of_a_node(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200, _POD) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server}/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        assert_works(S3Store(bucket, endpoint=proxy.endpoint))


@pytest.mark.usefixtures("_no_keys")
def test_a_role_that_may_not_be_taken_on(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(403, _REFUSED) as server:
        with_role(monkeypatch, server, tmp_path)
        with pytest.raises(UserError) as caught:
            S3Store(bucket, endpoint=proxy.endpoint).read("a/b")
    assert "role" in caught.value.what
    assert "service account" in caught.value.remedy
    assert proxy.requests == []


@pytest.mark.usefixtures("_no_keys")
def test_a_role_server_that_is_away(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_role(monkeypatch, "http://127.0.0.1:1", tmp_path)
    with pytest.raises(StorageError) as caught:
        S3Store(bucket, endpoint=proxy.endpoint, retry_timeout=0).read("a/b")
    assert "http://127.0.0.1:1" in caught.value.what, "not the S3 server, which is there"


@pytest.mark.parametrize("variable", ["", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_a_server_of_ones_own_is_asked_by_path(
    proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, proxy.endpoint)
    store = open_store(f"s3://{bucket}/runs", endpoint=None if variable else proxy.endpoint)
    store.write("a/b", b"bytes")
    assert proxy.requests == [f"PUT /{bucket}/runs/a/b"]
