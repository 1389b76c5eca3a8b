"""One file, from its origin to a part file of which nothing is lost: resumed, tried again,
checked.

A part file lies beside a note with the version that its bytes are of. Bytes are written as they
come, so that a kill costs a transfer at most the buffer that it was reading.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vita_train.console import say
from vita_train.data.fetch.limits import Limits, Stop
from vita_train.data.fetch.origin import AwayError, Body, RemoteFile
from vita_train.errors import DataError, StorageError

_READ = 1 << 20
#: Times that a whole file may arrive wrong before it is given up.
_WRONG = 3


class StoppedTransfer(Exception):  # noqa: N818 - not an error: another one is told
    """Another transfer failed for good."""


@dataclass(frozen=True)
class Arrived:
    """What arrived."""

    bytes: int
    sha256: str


@dataclass
class _State:
    """A part file and what is known of it."""

    path: Path
    size: int
    total: int | None
    validator: str
    digest: hashlib._Hash
    doubted: bool = False
    """Whether the last answer spoke of another length."""

    @property
    def note(self) -> Path:
        return self.path.with_suffix(".json")

    def begin(self, file: BinaryIO, body: Body) -> None:
        """Start over with a version."""
        file.seek(0)
        file.truncate()
        self.size, self.total, self.validator = 0, body.total, body.validator
        self.digest = hashlib.sha256()
        temporary = self.note.with_suffix(".tmp")
        temporary.write_text(json.dumps({"total": self.total, "validator": self.validator}))
        os.replace(temporary, self.note)


def transfer(
    remote: RemoteFile,
    part: Path,
    *,
    limits: Limits,
    stop: Stop,
    report: Callable[[int], None],
) -> Arrived:
    """Bring all bytes of a file to ``part``, which may hold some of them, and check them.

    Args:
        remote: the file.
        part: where to; a note of the same stem lies beside it.
        limits: of tries and pauses.
        stop: asked before each buffer.
        report: is told of bytes that came, and of those that must come again as a negative number.

    Raises:
        StoppedTransfer: ``stop`` was set.
        DataError: what arrives is not what its publisher states, however often it is fetched.
        StorageError: the server stayed away.
        UserError: the server refuses it.
        OSError: the disk refuses it.
    """
    state = _opened(part)
    report(state.size)
    failures, best, wrong = 0, state.size, 0
    while True:
        if stop:
            raise StoppedTransfer
        try:
            _fill(remote, state, stop, report)
            fault = _fault(remote, state)
        except AwayError as error:
            if state.size > best:
                best, failures = state.size, 0
            failures += 1
            if failures >= limits.tries:
                raise StorageError(
                    f"the transfer failed {failures} times in a row ({error.reason}); "
                    f"{state.size} bytes are kept",
                    code="VT-STORE-013",
                    where=remote.origin.where,
                    remedy="check the network, then run the same command again; it continues where "
                    "it stopped",
                ) from error
            stop.wait(limits.pause(failures, error.pause))
            continue
        if not fault:
            return Arrived(state.size, state.digest.hexdigest())
        wrong += 1
        report(-state.size)
        part.unlink()
        state.note.unlink()
        if wrong >= _WRONG:
            raise DataError(
                f"{fault}, {wrong} times in a row; nothing of it is kept",
                code="VT-DATA-060",
                where=remote.origin.where,
                remedy="the file was changed or is changed on its way: compare with its page, and "
                "try another mirror",
            )
        state, best = _opened(part), 0
        stop.wait(limits.pause(wrong, None))


def _opened(part: Path) -> _State:
    """Take up a part file, if it and its note are there; else begin a new one."""
    state = _State(part, 0, None, "", hashlib.sha256())
    note: object = None
    with suppress(OSError, ValueError):
        note = json.loads(state.note.read_text())
    if not part.is_file() or not isinstance(note, dict):
        part.write_bytes(b"")
        return state
    total, validator = note.get("total"), note.get("validator")
    state.total = total if isinstance(total, int) else None
    state.validator = validator if isinstance(validator, str) else ""
    with part.open("rb") as file:
        while data := file.read(_READ):
            state.digest.update(data)
            state.size += len(data)
    return state


def _fill(remote: RemoteFile, state: _State, stop: Stop, report: Callable[[int], None]) -> None:
    """Read once from the origin, from where the part file ends, as far as it goes."""
    if state.size and state.size == (state.total or remote.size):
        return
    # Bytes of an unknown version can only be continued where a checksum tells in the end.
    start = state.size if state.validator or remote.sha256 else 0
    body = remote.origin.open(start, state.validator)
    with state.path.open("r+b", buffering=0) as file:
        if body.start == 0:
            if state.size:
                say(f"{remote.path}: the server sends no ranges or another version; from the start")
                report(-state.size)
            state.begin(file, body)
        elif body.total == state.size and remote.size in (None, state.size):
            state.total = body.total  # no more of it is there; the length was wrong before
            return
        if body.total is not None and body.total != (stated := remote.size or state.total):
            # One of the two is wrong. If it happens twice it is not this answer, but that with
            # which the part file began: the next try asks for the whole file.
            if state.doubted:
                report(-state.size)
                state.begin(file, Body(0, None, "", iter(())))
            state.doubted = not state.doubted
            raise AwayError(f"the server says {body.total} bytes, {stated} are expected")
        file.seek(state.size)
        for data in body.chunks:
            if stop:
                raise StoppedTransfer
            file.write(data)
            state.digest.update(data)
            state.size += len(data)
            report(len(data))
    if state.total is not None and state.size < state.total:
        raise AwayError(f"the transfer broke off after {state.size} of {state.total} bytes")


def _fault(remote: RemoteFile, state: _State) -> str:
    """Say what is wrong with a file that came to its end; empty if nothing is."""
    if remote.size is not None and state.size != remote.size:
        return f"{state.size} bytes came, {remote.size} are stated"
    if state.total is not None and state.size != state.total:
        return f"{state.size} bytes came, the server said {state.total}"
    if remote.sha256 is not None and state.digest.hexdigest() != remote.sha256:
        return f"its sha256 is {state.digest.hexdigest()}, {remote.sha256} is stated"
    return ""
