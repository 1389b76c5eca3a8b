"""A real S3 server for the tests: versitygw where its binary is found, else moto's server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "vita-access"
SECRET_KEY = "vita-secret-key"


@dataclass(frozen=True)
class S3Server:
    """Where the server listens and what it is."""

    endpoint: str
    kind: str
    data: Path | None = None
    """Folder of its buckets, where it keeps them as files."""


def find_versitygw() -> str | None:
    """Return the binary: VERSITYGW, PATH, or what tests/tools/build-versitygw.sh built."""
    built = Path.home() / ".cache" / "vita-train-test" / "bin" / "versitygw"
    named = os.environ.get("VERSITYGW")
    if named is not None:  # an empty value asks for moto
        return named or None
    return shutil.which("versitygw") or (str(built) if built.is_file() else None)


def describe() -> str:
    """Return the line of the test run's header."""
    found = find_versitygw()
    server = (
        f"versitygw ({found})"
        if found
        else "moto (tests/tools/build-versitygw.sh builds versitygw)"
    )
    return f"s3 server: {server}"


@contextmanager
def serve_s3(folder: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Run a server on a free port of an address of this machine, with its data in `folder`."""
    binary = find_versitygw()
    with _versitygw(binary, folder, host) if binary else _moto(host) as server:
        yield server


@contextmanager
def _versitygw(binary: str, folder: Path, host: str) -> Iterator[S3Server]:
    port = _free_port(host)
    data = folder / "data"
    data.mkdir()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                "--port",
                f"{host}:{port}",
                "--access",
                ACCESS_KEY,
                "--secret",
                SECRET_KEY,
                "--quiet",
                "posix",
                str(data),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for_port((host, port), process, folder / "server.log")
        yield S3Server(f"http://{host}:{port}", "versitygw", data)
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def _moto(host: str) -> Iterator[S3Server]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=host, port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", "moto")
    finally:
        server.stop()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _wait_for_port(address: tuple[str, int], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"versitygw did not start: {log.read_text(errors='replace')}")
