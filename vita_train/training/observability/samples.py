"""Which samples each global batch held, small enough to keep for every step of a long run.

One line a step: ``{"step": 12, "count": 16, "sum": 1234, "ids": ["asr/train/:3,7-9", ...]}``.
``ids`` are the ids grouped by what stands before their last number, with the numbers as ranges;
they are what the order says. ``sum`` is computed from what the ranks really trained on: the sum of
a 32-bit hash of every id, which depends neither on order nor on the number of ranks.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

_LAST_NUMBER = re.compile(r"^(.*?)(\d+)(\D*)$", re.DOTALL)


def id_sum(ids: Iterable[str]) -> int:
    """Return the sum of the CRC-32 of every id; sums over ranks add up."""
    return sum(zlib.crc32(name.encode()) for name in ids)


def compact(ids: Sequence[str]) -> list[str]:
    """Return ids grouped by prefix, numbers as sorted ranges: ``["a/1", "a/2", "b"]`` to
    ``["a/:1-2", "b"]``.

    Zeros at the front of numbers and repeated ids are kept: ``007`` differs from ``7``, and a
    sample taken twice is listed twice.
    """
    groups: dict[tuple[str, int, str], list[int]] = {}
    plain: list[str] = []
    for name in ids:
        match = _LAST_NUMBER.match(name)
        if match is None:
            plain.append(name)
            continue
        head, digits, rest = match.groups()
        # Only what is padded has a width: 7 and 10 of one dataset stay in one group
        width = len(digits) if digits.startswith("0") and len(digits) > 1 else 0
        groups.setdefault((head, width, rest), []).append(int(digits))
    lines = [
        f"{head}:{_ranges(sorted(numbers), width)}{rest}"
        for (head, width, rest), numbers in groups.items()
    ]
    return sorted(lines) + sorted(plain)


def _ranges(numbers: list[int], width: int) -> str:
    parts: list[tuple[int, int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    return ",".join(
        f"{a:0{width}d}" if a == b else f"{a:0{width}d}-{b:0{width}d}" for a, b in parts
    )
