"""COYO: four image-caption pairs become one record, as VILA groups them to have about as many
tokens as a document of MMC4. The last record may have fewer pairs: none is dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vita_train.data.adapters.base import Rejected
from vita_train.data.formats.rewrite import Made, Row, plain, text_of

PAIRS = 4


def records(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record of each four rows that a crawl kept, and a reject of each without caption."""
    group: list[tuple[str, str, str]] = []
    for where, row in rows:
        text, image = text_of(row, "text"), text_of(row, "image")
        if not text or not image:
            yield Rejected(where, "no caption" if image else "no image file")
            continue
        group.append((where, text, image))
        if len(group) == PAIRS:
            yield _record(group)
            group = []
    if group:
        yield _record(group)


def _record(group: list[tuple[str, str, str]]) -> dict[str, Any]:
    return {
        "id": group[0][0],
        "document": [f"<image>\n{plain(text)}" for _, text, _ in group],
        "image": [image for _, _, image in group],
    }
