"""Logs of the test kubelet's pods, kept with times and served the way the API server asks a kubelet
for them."""

from __future__ import annotations

import datetime
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class LogFile:
    """What a container printed: a time in front of each line, as container runtimes keep it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.touch()
        self.ended = threading.Event()

    def take(self, stream: IO[bytes]) -> None:
        """Keep everything a stream brings, until its end."""
        with self._path.open("ab", buffering=0) as file:
            for line in stream:
                file.write(f"{_stamp()} ".encode() + line.rstrip(b"\n") + b"\n")
        self.ended.set()

    def lines(self, *, follow: bool) -> Iterator[bytes]:
        """Yield the lines with their times; with ``follow``, until the container has ended."""
        with self._path.open("rb") as file:
            rest = b""
            while True:
                over = self.ended.is_set()
                *lines, rest = (rest + file.read()).split(b"\n")
                yield from lines
                if over or not follow:
                    return
                time.sleep(0.1)

    def tail(self, number: int) -> str:
        """Return the last lines without their times."""
        lines = [line.partition(b" ")[2] for line in self.lines(follow=False)]
        return b"\n".join(lines[-number:]).decode(errors="replace")


class LogServer:
    """The part of the kubelet's HTTPS API that ``logs`` needs, on a free port of 127.0.0.1."""

    def __init__(self, find: Callable[..., LogFile | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                _, _, namespace, pod, _ = parts.path.split("/")
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                log = find(namespace, pod, previous=query.get("previous") == "true")
                self.send_response(200 if log else 404)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for line in _wanted(log, query) if log else ():
                    self.wfile.write(f"{len(line) + 1:x}\r\n".encode() + line + b"\n\r\n")
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(_certificate())
            file.flush()
            context.load_cert_chain(file.name)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        threading.Thread(target=self._server.shutdown, daemon=True).start()


def _wanted(log: LogFile, query: dict[str, str]) -> Iterator[bytes]:
    lines: Iterator[bytes] = log.lines(follow=query.get("follow") == "true")
    if since := query.get("sinceTime"):
        lines = (line for line in lines if line[:19] >= since[:19].encode())
    if number := query.get("tailLines"):
        lines = iter(list(lines)[-int(number) :])
    for line in lines:
        yield line if query.get("timestamps") == "true" else line.partition(b" ")[2]


def _stamp() -> str:
    nanoseconds = time.time_ns()
    whole = datetime.datetime.fromtimestamp(nanoseconds // 10**9, datetime.UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%S") + f".{nanoseconds % 10**9:09d}Z"


def _certificate() -> bytes:
    """Return a fresh self-signed certificate with its key; the API server is told not to check
    it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-kubelet")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
