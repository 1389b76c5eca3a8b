"""How examples lie on disk: an Arrow file of columns, a table of lengths, and features beside
them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vita_train.data.media.door import DIGEST_BYTES
from vita_train.data.prepare.row_encoder import Example
from vita_train.storage.digest import sha256_file

INDEX_FORMAT = "vita-train/index/v2"
ROWS_PER_BATCH = 8192
"""Rows of an Arrow record batch; every batch but the last is full, so that a row's place is a
division."""

_INTS = pa.list_(pa.int32())
_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("ids", _INTS),
        ("spans", _INTS),
        ("runs", _INTS),
        ("supervised", pa.int32()),
        ("images", _TEXTS),
        ("image_tiles", _INTS),
        ("videos", _TEXTS),
        ("video_frame_indices", _INTS),
        ("audios", _TEXTS),
        ("audio_frames", _INTS),
        ("media_digests", pa.list_(pa.binary(DIGEST_BYTES))),
        ("feature_offset", pa.int64()),
        ("seconds", pa.float32()),
        ("turns", _TEXTS),
        ("inserted", pa.int32()),
        ("states", _INTS),
    ]
)
TABLES = ("index.arrow", "lengths.bin", "features.bin")
"""Files of a split beside ``meta.json``, which holds their sha256."""
LENGTHS = ("tokens", "tiles", "frames")
"""Columns of ``lengths.bin``, int32 by row."""


PART_SCHEMA = pa.schema(
    [*SCHEMA, *((name, pa.int32()) for name in LENGTHS), ("row_digest", pa.binary(16))]
)
"""Rows on their way into an index."""


def row_digest(example: Example) -> bytes:
    """Return a digest of a row: ids, labels, lengths, names and bytes of media, stored features."""
    e = example
    digest = hashlib.blake2b(digest_size=16)
    # repr tells 1 from "1" and keeps borders; ids, texts and numbers in it are spelt alike
    # everywhere
    digest.update(
        repr(
            (
                e.id,
                e.ids,
                e.spans,
                (e.tokens, e.tiles, e.frames),
                e.images,
                e.videos,
                e.video_frame_indices,
                e.audios,
                e.media_digests,
                e.turns,
                e.states,
            )
        ).encode()
    )
    for clip in e.features:
        digest.update(stored(clip))
    return digest.digest()


def stored(clip: np.ndarray) -> bytes:
    """Return the features of a clip as they are kept: float16, frame by frame."""
    return np.ascontiguousarray(clip, dtype=np.float16).tobytes()


def rows_batch(examples: Sequence[Example], offsets: Sequence[int]) -> pa.RecordBatch:
    """Return examples as rows of ``PART_SCHEMA``.

    Args:
        offsets: where the features of each begin, in frames.
    """

    def column(name: str) -> Sequence[object]:
        if name == "feature_offset":
            return offsets
        if name == "row_digest":
            return [row_digest(example) for example in examples]
        return [getattr(example, name) for example in examples]

    return pa.record_batch(
        [pa.array(column(field.name), type=field.type) for field in PART_SCHEMA],
        schema=PART_SCHEMA,
    )


class IndexWriter:
    """Writes one split: ``index.arrow``, ``lengths.bin``, ``meta.json`` and, if asked,
    ``features.bin``.

    A context manager; leaving it normally completes the files. They do not depend on how the rows
    are dealt out to the tables that are added.

    Args:
        out: directory, made if absent.
        meta: written into ``meta.json`` beside rows, digest and mel bins.
        bins: mel bins of stored features; 0 stores none.
    """

    def __init__(self, out: Path, meta: dict[str, object], *, bins: int = 0) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        self._meta = meta
        self._bins = bins
        self._pending = PART_SCHEMA.empty_table()
        self._rows = 0
        self._frames = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> IndexWriter:
        self._arrow = pa.ipc.new_file(str(self._out / "index.arrow"), SCHEMA)
        self._lengths = (self._out / "lengths.bin").open("wb")
        self._features = (self._out / "features.bin").open("wb") if self._bins else None
        return self

    @property
    def digest(self) -> str:
        """Digest of the rows written, of the `row_digest` of each."""
        return self._digest.hexdigest()

    def add(self, table: pa.Table, features: Path | None = None) -> None:
        """Append rows of ``PART_SCHEMA``, and the file with their features if there are any."""
        # Offsets of a part count from its own beginning; here they count from the split's
        offsets = table.schema.get_field_index("feature_offset")
        table = table.set_column(
            offsets, PART_SCHEMA.field(offsets), pc.add(table.column(offsets), self._frames)
        )
        if self._features and features is not None:
            with features.open("rb") as stream:
                shutil.copyfileobj(stream, self._features, 1 << 20)
            # Two bytes a number, in rows of `bins`
            self._frames += features.stat().st_size // (2 * self._bins)
        self._pending = pa.concat_tables([self._pending, table])
        while len(self._pending) >= ROWS_PER_BATCH:
            self._flush(ROWS_PER_BATCH)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and len(self._pending):
            self._flush(len(self._pending))
        self._arrow.close()
        self._lengths.close()
        if self._features:
            self._features.close()
        if kind is None:
            tables = [path for name in TABLES if (path := self._out / name).exists()]
            meta = {
                "format": INDEX_FORMAT,
                "rows": self._rows,
                "digest": self.digest,
                "sha256": {path.name: sha256_file(path) for path in tables},
                "feature_bins": self._bins,
                "feature_frames": self._frames,
                **self._meta,
            }
            (self._out / "meta.json").write_text(
                json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8"
            )

    def _flush(self, rows: int) -> None:
        """Write the first of the rows that wait, as one record batch."""
        # combine_chunks makes one chunk, hence one batch, of rows that came from several parts
        (batch,) = self._pending.slice(0, rows).combine_chunks().to_batches()
        self._pending = self._pending.slice(rows)
        self._arrow.write_batch(batch.select(SCHEMA.names))
        # (rows, 3), little-endian whatever the machine: the file is mapped as it lies
        lengths = np.stack([batch.column(name).to_numpy() for name in LENGTHS], axis=1)
        self._lengths.write(lengths.astype("<i4").tobytes())
        digests = batch.column("row_digest")
        first, width = digests.offset, digests.type.byte_width
        self._digest.update(digests.buffers()[1][first * width : (first + len(digests)) * width])
        self._rows += rows
