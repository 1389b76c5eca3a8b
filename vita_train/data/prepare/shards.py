"""Records cut into shards, the units of preparation: the same records give the same shards,
whatever stands before or behind them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vita_train.data.sources.texts import RowError, lines_of

#: A shard ends where it weighs this much, and the text of its last record says so: one unit in
#: ``_SPREAD`` does. So a record put in or taken out moves the ends near it, and none further on.
_LEAST, _SPREAD = 2048, 2048
#: Where it ends in any case.
_MOST = 8192
#: What a record with media weighs: decoding takes as long as some tens of texts.
_MEDIA_WEIGHT = 32
#: Characters of text that weigh as much as a short record.
_CHARACTERS = 2048


@dataclass(frozen=True)
class Shard:
    """Consecutive records of a split."""

    rows: Sequence[int]
    """Their places in the file."""
    records: tuple[str | RowError, ...] | bytes
    """Their JSON, as of `vita_train.data.sources.texts.read_texts`, or the lines that hold it."""
    content: str
    """Digest of the texts."""
    ends_by_content: bool
    """It ends here whatever follows; the last one may go on when records are added."""

    @property
    def texts(self) -> tuple[str | RowError, ...]:
        """Their JSON."""
        return lines_of(self.records) if isinstance(self.records, bytes) else self.records


def cut(records: Iterable[tuple[int, str | RowError]]) -> Iterator[Shard]:
    """Cut records, each its place in the file and its text, into shards."""
    rows: list[int] = []
    texts: list[str | RowError] = []
    weight, digest = 0, hashlib.sha256()
    for row, text in records:
        raw = _bytes_of(text)
        rows.append(row)
        texts.append(text)
        # With its length: two texts must not count as one that is both
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
        own = _weight(text)
        weight += own
        # By the record's content, not its place: chance is in proportion to what it weighs
        if weight >= _MOST or (weight >= _LEAST and zlib.crc32(raw) % _SPREAD < own):
            yield Shard(tuple(rows), tuple(texts), digest.hexdigest(), ends_by_content=True)
            rows, texts, weight, digest = [], [], 0, hashlib.sha256()
    if rows:
        yield Shard(tuple(rows), tuple(texts), digest.hexdigest(), ends_by_content=False)


def _bytes_of(text: str | RowError) -> bytes:
    if isinstance(text, RowError):  # no JSON begins so
        text = f"\0{text.reason}\0{text.detail}"
    return text.encode("utf-8", errors="surrogatepass")


def _weight(text: str | RowError) -> int:
    if isinstance(text, RowError):
        return 1
    # In the raw text: to parse every record only to weigh it would take longer than it saves. Each
    # by itself: a loop takes three times as long, and every record comes by here whenever one does
    has_media = '"image"' in text or '"video"' in text or '"audio"' in text
    return (_MEDIA_WEIGHT if has_media else 1) + len(text) // _CHARACTERS
