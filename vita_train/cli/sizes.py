"""Sizes in bytes as people write them."""

from __future__ import annotations

import re

from vita_train.errors import UserError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_of(text: str, where: str) -> int:
    """Return a size such as ``2GB``, ``500MB`` or ``1GiB`` in bytes; units of ten unless they have
    an i.

    Raises:
        UserError: it is none, or is less than a byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    unit = found and (found[2].upper(), bool(found[3]))
    size = 0.0
    if found and unit and (unit[0] or not unit[1]):
        factor = _UNITS[unit[0]]
        if unit[1]:
            factor = 1024 ** (len(str(factor)) // 3)
        size = float(found[1]) * factor
    if size < 1:
        raise UserError(
            f"{text!r} is no size in bytes",
            code="VT-USE-281",
            where=where,
            remedy="write it as 2GB, 500MB or 1GiB",
        )
    return int(size)
