"""Fetches that are killed again and again, from a server that does what it can to spoil them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.hostile_http import Fault, HostileServer, hostile_http
from vita_train.data.fetch.folder import part_path


@dataclass
class Outcome:
    """What happened."""

    kills: int
    runs: int
    bytes: int
    """Of all files."""
    again: int
    """Bytes of part files that were asked for again after a kill."""


def killed_fetch(folder: Path, *, kills: int, files: int, size: int, seed: int = 0) -> Outcome:
    """Fetch files of chance and an archive, with so many kills -9, and check all of it.

    Raises:
        AssertionError: something did not arrive whole, or something not whole had a final name.
    """
    chance = random.Random(seed)
    data = {f"/{number}.bin": chance.randbytes(size) for number in range(files)}
    members = {f"m/{number}": chance.randbytes(50_000) for number in range(40)}
    data["/a.tar.part_0"], data["/a.tar.part_1"] = _halves(_tar(members))
    with hostile_http() as server:
        server.files = dict(data)
        server.chaos = _chaos
        outcome = Outcome(0, 0, sum(map(len, data.values())), 0)
        while True:
            outcome.runs += 1
            if _run(server, folder, chance if outcome.kills < kills else None):
                break
            outcome.kills += 1
            _check_final(folder, data)
            _note_parts(server, folder, outcome)
        outcome.again = _asked_again(server)
    for path, content in data.items():
        if "tar" not in path:
            assert (folder / path.strip("/")).read_bytes() == content, path
    found = {f"m/{path.name}": path.read_bytes() for path in (folder / "m").iterdir()}
    assert found == members
    left = {path.name for path in (folder / ".vita-fetch").iterdir()} - {"lock"}
    assert not left, left
    lock = json.loads((folder / "fetch.lock.json").read_text())
    locked = {
        path: file["sha256"]
        for source in lock["sources"].values()
        for path, file in source["files"].items()
    }
    assert locked == {
        path.strip("/"): hashlib.sha256(content).hexdigest() for path, content in data.items()
    }
    return outcome


def _tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _halves(content: bytes) -> tuple[bytes, bytes]:
    return content[: len(content) // 2], content[len(content) // 2 :]


def _chaos(number: int, path: str) -> Fault | None:
    """Half of all answers are spoilt; the others are slow."""
    kinds = [
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(delay=0.02),
        Fault(cut=300_000, delay=0.01),
        Fault(delay=0.02),
        Fault(status=500),
        Fault(delay=0.02),
        Fault(lie=11, delay=0.01),
        Fault(delay=0.02),
    ]
    return kinds[(number + len(path) + ord(path[1])) % len(kinds)]


def _run(server: HostileServer, folder: Path, chance: random.Random | None) -> bool:
    """Run the command; with `chance`, kill it some time after its first bytes. Return whether it
    came to its end."""
    sources = [f"{server.url}{path}" for path in server.files]
    asked = len(server.requests)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "vita_train.cli.main", "data", "fetch", *sources),
            *("--to", str(folder)),
        ],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    if chance is not None:
        while process.poll() is None and not any(
            request.sent for request in server.requests[asked:]
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
    _, told = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return False
    assert process.returncode == 0, told
    return True


def _check_final(folder: Path, data: dict[str, bytes]) -> None:
    """Nothing that is not whole stands under a final name, at any moment."""
    for path, content in data.items():
        final = folder / path.strip("/")
        assert not final.exists() or final.read_bytes() == content, path


def _note_parts(server: HostileServer, folder: Path, outcome: Outcome) -> None:
    """Note beside each path how much of it was there at the kill, before the next request."""
    for path in server.files:
        part = part_path(folder, path.strip("/"))
        if part.exists():
            server.kept.append((len(server.requests), path, part.stat().st_size))


def _asked_again(server: HostileServer) -> int:
    """Return the bytes that part files held and that the next request asked for again."""
    again = 0
    for place, path, size in server.kept:
        later = [
            request
            for request in server.requests[place:]
            if request.path == path and request.method == "GET"
        ]
        if later and size:
            begin = later[0].headers.get("Range", "bytes=0-")
            again += size - min(size, int(begin.removeprefix("bytes=").rstrip("-")))
    return again
