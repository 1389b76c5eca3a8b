"""Sizes in bytes as people write them."""

from __future__ import annotations

import re

from vita_train.errors import UserError


def bytes_of(text: str, where: str) -> int:
    """Return a size such as ``2GB``, ``500MB`` or ``1GiB`` in bytes; units of ten unless they have
    an i.

    Raises:
        UserError: it is none, or is less than a byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?\s*", text, re.IGNORECASE)
    size = 0.0
    if found:
        power = 1 + "KMGT".index(found[2].upper()) if found[2] else 0
        size = float(found[1]) * (1024 if found[3] else 1000) ** power
    if size < 1:
        raise UserError(
            f"{text!r} is no size in bytes",
            code="VT-USE-281",
            where=where,
            remedy="write it as 2GB, 500MB or 1GiB",
        )
    return int(size)
