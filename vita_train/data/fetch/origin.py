"""What a transfer asks of the place that a file comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

#: Bytes that are read at once, and so the most that a kill costs a transfer.
BUFFER = 1 << 18


@dataclass
class Body:
    """Bytes on their way."""

    start: int
    """Offset of the first of them; 0 where the server sends the whole file although a part was
    asked for."""
    total: int | None
    """Bytes of the whole file; None where the server does not say."""
    validator: str
    """What tells this version of the file from others (ETag, time of modification); empty where
    there is nothing."""
    chunks: Iterator[bytes]


class Origin(Protocol):
    """A file somewhere."""

    @property
    def host(self) -> str:
        """Where it is, for the limit of transfers for each host."""
        ...

    @property
    def where(self) -> str:
        """Where it is, for messages and the lock file; without credentials."""
        ...

    def open(self, start: int, validator: str) -> Body:
        """Begin to read from an offset.

        Args:
            start: offset in bytes.
            validator: of the version that the bytes before ``start`` are of; where the file is
                another one now, the body begins at 0.

        Raises:
            AwayError: it may be there later.
            UserError: it never will, as things are.
        """
        ...

    def probe(self) -> int | None:
        """Return the size in bytes, None where the server does not say; errors as of `open`."""
        ...


class AwayError(Exception):
    """The server did not answer, broke off, or asked to come back later.

    Args:
        reason: in a few words.
        pause: seconds that it asked to wait.
    """

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pause = pause


@dataclass(frozen=True)
class RemoteFile:
    """A file to bring to the target tree."""

    path: str
    """Relative to the target folder."""
    origin: Origin
    size: int | None = None
    """Bytes as its publisher states them."""
    sha256: str | None = None
    """As its publisher states it."""
    expected: int | None = None
    """Bytes as a server said when it was asked; nothing is checked by it."""
    unpack: str | None = None
    """Folder of the target tree that it is unpacked to if it is an archive."""
    inside: str = ""
    """Pattern of archives in it that are unpacked where they lie."""
