"""M3IT: instruction, inputs and images in base64 become a record; its images become files.

Question is the instruction with the inputs right behind it, as VILA joins them. ``<image>`` in it
is text no more: one placeholder for each image stands at the front. Rows without images are text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any

from vita_train.data.adapters.base import Rejected
from vita_train.data.formats.rewrite import Made, Row, text_of

MOST_IMAGES = 8


def records(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each row of a subset."""
    for where, row in rows:
        yield _record(where, row)


def _record(where: str, row: dict[str, Any]) -> Made:
    question = "".join(row.get(key) or "" for key in ("instruction", "inputs"))
    question, answer = question.replace("<image>", "").strip(), text_of(row, "outputs")
    if not question or not answer:
        return Rejected(where, "empty answer" if question else "empty question")
    encoded = row.get("image_base64_str") or []
    encoded = [encoded] if isinstance(encoded, str) else encoded
    if len(encoded) > MOST_IMAGES:
        return Rejected(where, "too many images")
    try:
        images = [base64.b64decode(text, validate=True) for text in encoded]
    except (binascii.Error, TypeError, ValueError):
        return Rejected(where, "not base64")
    if not all(images):
        return Rejected(where, "empty image")
    made: dict[str, Any] = {
        "id": where,
        "conversations": [
            {"from": "human", "value": "<image>\n" * len(images) + question},
            {"from": "gpt", "value": answer},
        ],
    }
    return {**made, "image": images} if images else made
