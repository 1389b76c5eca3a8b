"""A proxy in front of an S3 server that spoils chosen requests: late, cut, lost, refused, with a
byte changed, or answered by something that is no S3 server.

Everything else passes as it came, the Host header too, so that the signature of a request still
holds at the server.
"""

from __future__ import annotations

import http.client
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from vita_train.storage.s3 import MIB

Kind = Literal[
    "late",
    "cut request",
    "cut answer",
    "lost answer",
    "changed request",
    "changed answer",
    "page",
    "empty",
    "InternalError",
    "SlowDown",
    "ConditionalRequestConflict",
    "lie",
]

Headers = dict[str, str]
Lie = Callable[[Headers, bytes], tuple[Headers, bytes]]
"""Headers and body of a true answer to those that are sent in its place, with status 200."""

_STATUS = {"InternalError": 500, "SlowDown": 503, "ConditionalRequestConflict": 409}
_FOREIGN = {"page": b"<!doctype html><html><body>Please sign in</body></html>", "empty": b""}


@dataclass
class Fault:
    """What happens to the next requests that match."""

    kind: Kind
    match: str
    """Searched for in ``METHOD /bucket/key?query``."""
    left: float
    """Requests still to spoil."""
    seconds: float
    before: Callable[[], None] | None
    lie: Lie | None = None
    seen: int = 0


@dataclass
class FaultProxy:
    """Where the proxy listens, what passed through it, and what is to go wrong."""

    endpoint: str
    requests: list[str] = field(default_factory=list)
    """``METHOD /bucket/key?query`` of every request, spoilt or not."""
    failed: list[BaseException] = field(default_factory=list)
    """What `before` functions raised."""
    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spoil(
        self,
        kind: Kind,
        match: str = "",
        *,
        times: float = math.inf,
        seconds: float = 0.0,
        before: Callable[[], None] | None = None,
        lie: Lie | None = None,
    ) -> Fault:
        """Let requests go wrong.

        Args:
            kind: how. "late": served after `seconds` or after `before` has run. "cut request": the
                connection ends
                after half of the request's body, which is all that the server gets. "cut answer":
                it ends after half of
                the answer's body. "lost answer": the server has done what was asked, the client
                never hears of it.
                "changed": one byte of the body is another one. "page", "empty": the server is not
                asked; the answer is
                status 200 with a page of HTML, as of a portal that wants a login, or with nothing.
                The others are S3's own error codes.
            match: a regular expression, searched for in ``METHOD /bucket/key?query``.
            times: requests to spoil; all from now on when not given.
            seconds, before: for "late".
            lie: for "lie"; a Content-Length that it gives is sent whatever the body's length is.
        """
        fault = Fault(kind, match, times, seconds, before, lie)
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Let everything pass from now on."""
        with self._lock:
            self._faults.clear()

    def take(self, request: str) -> Fault | None:
        """Note a request and return what is to happen to it."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.left > 0 and re.search(fault.match, request):
                    fault.left -= 1
                    fault.seen += 1
                    return fault
        return None


@contextmanager
def short_pauses() -> Iterator[None]:
    """Let pauses between tries be milliseconds, and parts as small as S3 allows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01
        )
        patch.setattr("vita_train.storage.retry._FIRST_PAUSE", 0.01)
        patch.setattr("vita_train.storage.retry._LONGEST_PAUSE", 0.05)
        patch.setattr("vita_train.storage.s3.PART_BYTES", 5 * MIB)
        yield


@contextmanager
def spoiling(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy in front of the server at `upstream` on a free port of this machine."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.upstream = urlsplit(upstream).netloc
    server.proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    if server.proxy.failed:
        raise server.proxy.failed[0]


class _Server(ThreadingHTTPServer):
    upstream: str
    proxy: FaultProxy
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        fault = self.server.proxy.take(f"{self.command} {self.path}")
        kind = fault.kind if fault else None
        length = int(self.headers.get("Content-Length", 0))
        if kind == "cut request":
            self._forward(self.rfile.read(length // 2))
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if kind in _STATUS:
            self._answer(
                _STATUS[kind],
                [("Content-Type", "application/xml")],
                f"<Error><Code>{kind}</Code><Message>ordered by a test</Message></Error>".encode(),
            )
            return
        if kind in _FOREIGN:
            self._answer(200, [("Content-Type", "text/html")], _FOREIGN[kind])
            return
        if fault and kind == "late":
            time.sleep(fault.seconds)
            self._run(fault.before)
        status, headers, answer = self._forward(
            _changed(body) if kind == "changed request" else body
        )
        if fault and fault.lie:
            self._lie(*fault.lie({name.lower(): value for name, value in headers}, answer))
            return
        if kind == "lost answer":
            self.close_connection = True
            return
        self._answer(
            status,
            headers,
            _changed(answer) if kind == "changed answer" else answer,
            cut=kind == "cut answer",
        )

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _run(self, before: Callable[[], None] | None) -> None:
        try:
            if before:
                before()
        except BaseException as error:
            self.server.proxy.failed.append(error)
            raise

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send the request on; one whose body is shorter than it says is broken off there."""
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            if len(body) < int(self.headers.get("Content-Length", 0)):
                return 0, [], b""
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False
    ) -> None:
        with suppress(ConnectionError):
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            told = dict((name.lower(), value) for name, value in headers).get("content-length")
            self.send_header(
                "Content-Length", told if self.command == "HEAD" and told else str(len(body))
            )
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def _lie(self, headers: Headers, body: bytes) -> None:
        self.close_connection = True
        with suppress(ConnectionError):
            self.send_response_only(200)
            for name, value in {
                "content-length": str(len(body)),
                **headers,
                "connection": "close",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def _changed(body: bytes) -> bytes:
    """Return the body with its last byte changed."""
    return body[:-1] + bytes([body[-1] ^ 1]) if body else body
