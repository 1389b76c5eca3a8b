"""sha256 of files and of streams as they pass."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashingReader:
    """A stream that can only be read forward, hashing and counting what it hands on."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        self.count += len(data)
        return data

    def sha256(self) -> str:
        """Return the digest of everything read so far, in hexadecimal."""
        return self._hash.hexdigest()
