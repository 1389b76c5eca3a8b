"""A proxy in front of the API server that spoils chosen requests; everything else passes as it
came."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

#: What a watch says when its version is too old.
_GONE = (
    json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}})
    + "\n"
)
_DROPPED = (
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "accept-encoding",
    "host",
)


@dataclass
class _Fault:
    match: str
    kind: str
    left: int


class ApiProxy:
    """Listens on a port of its own, without TLS; the bearer token goes through.

    Args:
        server: URL of the API server.
        authority: file of the certificate authority that it is checked against.
    """

    def __init__(self, server: str, authority: str) -> None:
        self._target = urlsplit(server)
        self._context = ssl.create_default_context(cafile=authority)
        self._faults: list[_Fault] = []
        self._back_at = 0.0
        self._streams: list[http.client.HTTPSConnection] = []
        self.spoilt = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._serve(self)

            do_POST = do_DELETE = do_GET  # noqa: N815  names that http.server calls

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def spoil(self, match: str, kind: str, times: int) -> None:
        """Let the next requests go wrong whose ``METHOD /path?query`` a regular expression is found
        in.

        Args:
            match: the expression.
            kind: a status such as "429"; "lost" lets the server do what was asked and drops its
                answer; "half" ends
                the answer in its middle; "gone" answers a watch that its version is too old.
            times: requests to spoil.
        """
        self._faults.append(_Fault(match, kind, times))

    def vanish(self, seconds: float) -> None:
        """Answer nobody for some time, and end every stream that is open."""
        self._back_at = time.monotonic() + seconds
        for stream in self._streams:
            with suppress(OSError):
                stream.close()

    def stop(self) -> None:
        """Listen no more."""
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        kind = self._spoilt_by(f"{request.command} {request.path}")
        if time.monotonic() < self._back_at:
            return  # the client sees a connection that ends without an answer
        if kind.isdecimal():
            self._answer(
                request, int(kind), json.dumps({"kind": "Status", "message": "spoilt"}).encode()
            )
        elif kind == "gone":
            self._answer(request, 200, _GONE.encode())
        else:
            with suppress(
                OSError, http.client.HTTPException, AttributeError
            ):  # closed under its reader
                self._pass_on(request, body, kind)

    def _spoilt_by(self, line: str) -> str:
        for fault in self._faults:
            if fault.left and re.search(fault.match, line):
                fault.left -= 1
                self.spoilt += 1
                return fault.kind
        return ""

    def _pass_on(self, request: BaseHTTPRequestHandler, body: bytes, kind: str) -> None:
        assert self._target.hostname
        connection = http.client.HTTPSConnection(
            self._target.hostname, self._target.port, context=self._context
        )
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _DROPPED
        }
        self._streams.append(connection)
        try:
            connection.request(request.command, request.path, body=body or None, headers=headers)
            answer = connection.getresponse()
            if kind == "lost":
                answer.read()
                return
            if kind == "half":
                whole = answer.read()
                self._answer(request, answer.status, whole[: len(whole) // 2])
                return
            request.send_response(answer.status)
            request.send_header(
                "Content-Type", answer.headers.get("Content-Type", "application/json")
            )
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            while part := answer.read1(
                65536
            ):  # each event at once: a reader of a watch waits for a chunk
                request.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                request.wfile.flush()
            request.wfile.write(b"0\r\n\r\n")
        finally:
            self._streams.remove(connection)
            connection.close()

    def _answer(self, request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        with suppress(OSError):
            request.send_response(status)
            request.send_header("Content-Type", "application/json")
            request.send_header("Connection", "close")
            request.end_headers()
            request.wfile.write(body)
