"""MMC4: a document of sentences and images becomes an interleaved record.

As VILA assembles its samples: the first six images in the order of the file, set before the
sentences that they match, sentences joined by spaces, images without text after them left out.
Unlike there, the sentences of a row are never changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vita_train.data.adapters.base import Rejected
from vita_train.data.formats.rewrite import Made, Row, plain

MOST_IMAGES = 6


def records(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each document that a crawl kept."""
    for where, row in rows:
        yield _record(where, row)


def _record(where: str, row: dict[str, Any]) -> Made:
    sentences, entries = row.get("text_list"), row.get("image_info")
    if not _are(sentences, str) or not _are(entries, dict):
        return Rejected(where, "no document")
    assert isinstance(sentences, list)
    assert isinstance(entries, list)
    before: dict[int, list[str]] = {}
    for entry in entries[:MOST_IMAGES]:
        place, name = entry.get("matched_text_index"), entry.get("image")
        if not isinstance(place, int) or not 0 <= place < len(sentences):
            return Rejected(where, "no matched sentence")
        if not isinstance(name, str):
            return Rejected(where, "no image file")
        before.setdefault(place, []).append(name)
    # The last sentence with any text: images behind it have nothing to be described by.
    last = max((place for place, text in enumerate(sentences) if text.strip()), default=-1)
    if last < 0:
        return Rejected(where, "no text")
    images = [name for place in sorted(before) if place <= last for name in before[place]]
    pieces = [
        "<image>\n" * len(before.get(place, ())) + plain(text)
        for place, text in enumerate(sentences[: last + 1])
    ]
    made: dict[str, Any] = {"id": where, "document": " ".join(pieces)}
    return {**made, "image": images} if images else made


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)
