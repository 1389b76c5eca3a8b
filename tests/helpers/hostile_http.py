"""A real HTTP server that breaks off, refuses, lies about lengths, has no ranges, or is slow."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """What is done to one request.

    Args:
        status: answered instead of the file.
        headers: sent beside the usual ones, or in place of them.
        cut: bytes of the body after which the connection ends.
        lie: added to the length that is stated.
        flip: change the first byte.
        delay: seconds before each piece of 64 KiB.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    lie: int = 0
    flip: bool = False
    delay: float = 0.0


@dataclass
class Request:
    """One request that came, and the bytes that its answer brought."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0


@dataclass
class HostileServer:
    """Files by path, and what goes wrong with them."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """By path, taken one after another; when they are used up, all goes well."""
    chaos: Callable[[int, str], Fault | None] | None = None
    """Asked for the fault of the n-th GET of a path."""
    ranges: bool = True
    validators: bool = True
    """Whether an ETag is sent."""
    pages: dict[str, Callable[[Request], tuple[int, dict[str, str], bytes]]] = field(
        default_factory=dict
    )
    """Other answers, by a regular expression of path and query."""
    requests: list[Request] = field(default_factory=list)
    kept: list[tuple[int, str, int]] = field(default_factory=list)
    """What a client was seen to hold: number of requests until then, path, bytes."""
    mutex: threading.Lock = field(default_factory=threading.Lock)
    gets: Counter[str] = field(default_factory=Counter)

    def next_fault(self, method: str, path: str) -> Fault:
        """Take the fault of a request."""
        with self.mutex:
            if method != "GET":
                return Fault()
            self.gets[path] += 1
            if queue := self.faults.get(path):
                return queue.pop(0)
            return (self.chaos(self.gets[path], path) if self.chaos else None) or Fault()

    def sent(self, path: str) -> int:
        """Return the bytes of a file that went out, all requests together."""
        return sum(request.sent for request in self.requests if request.path == path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def _serve(self) -> None:
        world: HostileServer = self.server.world
        request = Request(self.command, self.path, dict(self.headers))
        with world.mutex:
            world.requests.append(request)
        for pattern, page in world.pages.items():
            if re.search(pattern, self.path):
                self._send(*page(request), request, Fault())
                return
        path = self.path.partition("?")[0]
        fault = world.next_fault(self.command, path)
        if fault.status:
            self._send(fault.status, fault.headers, b"", request, Fault())
            return
        data = world.files.get(path)
        if data is None:
            self._send(404, {}, b"no", request, Fault())
            return
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {"ETag": etag} if world.validators else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", etag) == etag
        status = 200
        if wanted and world.ranges and same:
            start = int(wanted[1])
            if start >= len(data):
                self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"", request, Fault())
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data) + fault.lie}"
            data = data[start:]
        if fault.flip:
            data = bytes([data[0] ^ 1]) + data[1:]
        self._send(status, {**headers, **fault.headers}, data, request, fault)

    def _send(
        self, status: int, headers: dict[str, str], data: bytes, request: Request, fault: Fault
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(max(0, len(data) + fault.lie)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data if fault.cut is None else data[: fault.cut]
        for start in range(0, len(body), 1 << 16):
            if fault.delay:
                time.sleep(fault.delay)
            piece = body[start : start + (1 << 16)]
            self.wfile.write(piece)
            request.sent += len(piece)
        if fault.cut is not None or fault.lie:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = _serve  # noqa: N815

    def handle_one_request(self) -> None:
        with suppress(ConnectionError, BrokenPipeError):  # a client that was killed
            super().handle_one_request()
            return
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    world: HostileServer


@contextmanager
def hostile_http(tls: ssl.SSLContext | None = None) -> Iterator[HostileServer]:
    """Run a server on a free port of this machine."""
    server = _Server(("127.0.0.1", 0), _Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "https" if tls is not None else "http"
    server.world = HostileServer(url=f"{scheme}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.world
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
