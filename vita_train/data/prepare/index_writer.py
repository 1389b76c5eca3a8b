"""How examples lie on disk: an Arrow file of columns, a table of lengths, and features beside
them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

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


class IndexWriter:
    """Writes one split: ``index.arrow``, ``lengths.bin``, ``meta.json`` and, if asked,
    ``features.bin``.

    A context manager; leaving it normally completes the files.

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
        self._pending: list[Example] = []
        self._offsets: list[int] = []
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
        """Digest of the rows written: ids, labels, lengths, names and bytes of media and stored
        features."""
        return self._digest.hexdigest()

    def add(self, example: Example) -> None:
        """Append a row."""
        self._pending.append(example)
        self._offsets.append(self._frames)
        if self._features:
            for clip in example.features:
                stored = np.ascontiguousarray(clip, dtype=np.float16).tobytes()
                self._features.write(stored)
                self._digest.update(stored)
                self._frames += len(clip)
        if len(self._pending) == ROWS_PER_BATCH:
            self._flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
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

    def _flush(self) -> None:
        if not self._pending:
            return
        columns = [
            pa.array(
                self._offsets
                if name == "feature_offset"
                else [getattr(e, name) for e in self._pending],
                type=SCHEMA.field(name).type,
            )
            for name in SCHEMA.names
        ]
        batch = pa.record_batch(columns, schema=SCHEMA)
        self._arrow.write_batch(batch)
        lengths = np.array(
            [[getattr(e, name) for name in LENGTHS] for e in self._pending], dtype="<i4"
        )
        self._lengths.write(lengths.tobytes())
        self._digest.update(lengths.tobytes())
        self._digest.update(
            repr(
                [
                    (
                        e.id,
                        e.ids,
                        e.spans,
                        e.images,
                        e.videos,
                        e.video_frame_indices,
                        e.audios,
                        e.media_digests,
                        e.turns,
                    )
                    for e in self._pending
                ]
            ).encode()
        )
        if any(
            e.states for e in self._pending
        ):  # rows without keep the digest they had before there were any
            self._digest.update(repr([e.states for e in self._pending]).encode())
        self._rows += len(self._pending)
        self._pending.clear()
        self._offsets.clear()
