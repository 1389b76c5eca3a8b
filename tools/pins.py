"""Reads lock files: what is pinned, and the hashes that pip insists on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^ ;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")


@dataclass
class Pin:
    """One version of one package; a lock may have several of a package, for different Pythons."""

    name: str
    version: str
    line: int
    hashes: list[str] = field(default_factory=list)
    """SHA-256 of every file of the version, as hexadecimal digits."""


def plain(name: str) -> str:
    """Return the form of a package's name that all its spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path) -> list[Pin]:
    """Return the pins of a lock file.

    Raises:
        ValueError: a line is neither a pin, a hash of one, nor a comment; file and line are named.
    """
    pins: list[Pin] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if pin := _PIN.match(text):
            pins.append(Pin(plain(pin["name"]), pin["version"], number))
        hashes = _HASH.findall(text)
        if not pins or not (pin or hashes):
            raise ValueError(
                f"{path}:{number}: neither a pinned version nor a hash of one: {text[:80]}"
            )
        pins[-1].hashes += hashes
    return pins
