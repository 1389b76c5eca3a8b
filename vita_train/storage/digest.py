"""sha256 of files, of streams as they pass, and of values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO


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


def digest_of(value: Mapping[str, Any] | list[Any]) -> str:
    """Return the sha256 of a JSON-like value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
