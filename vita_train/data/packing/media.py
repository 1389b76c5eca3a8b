"""The media of a prepared corpus packed into tar shards in a store.

Each shard is a pure function of the files in it, named by their digests and committed by a note
beside it that is written last, so that packing goes on where it was stopped, and again packs only
shards whose files changed.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import pyarrow as pa

from vita_train.console import progress
from vita_train.data.index.corpus import Corpus, Index
from vita_train.data.index.media_shards import MEDIA_SCHEMA, SHARD, TABLE, key_of_digest
from vita_train.data.media.door import Kind, find_file
from vita_train.data.sources.reading import MediaRef
from vita_train.errors import DataError
from vita_train.recipe.base import Strict
from vita_train.storage.base import FileRef, Store
from vita_train.storage.digest import HashingReader, digest_of
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.scratch import scratch_folder

SHARD_BYTES = 256 * 2**20
_KINDS: tuple[tuple[Kind, str], ...] = (
    ("image", "images"),
    ("video", "videos"),
    ("audio", "audios"),
)


class _Member(NamedTuple):
    """A file to pack."""

    digest: bytes
    path: Path
    bytes: int


class _Packed(Strict):
    """The note of a shard."""

    tar: FileRef
    members: list[tuple[str, int, int]]
    """sha256, offset and bytes of each file."""


def pack_media(
    corpus: Path, store: Store, prefix: str, *, shard_bytes: int = SHARD_BYTES
) -> dict[str, FileRef]:
    """Pack the media that the rows of a corpus name, in the rows' order and each once, and write
    the table of their places into the corpus.

    Args:
        corpus: the prepared directory.
        store: where the shards go.
        prefix: keys below it that these shards do not use are deleted.
        shard_bytes: a shard ends before it holds more, but holds a file at least.

    Returns:
        The shards, as ``files`` of a manifest.

    Raises:
        DataError: a file is gone or has changed since the data was prepared.
    """
    tables, shards, kept = [], {}, set()
    groups = list(_groups(corpus, shard_bytes))
    for number, group in enumerate(progress(groups, len(groups), "packing media")):
        name = f"{prefix}/{digest_of([member.digest.hex() for member in group])[:32]}"
        packed = _known(store, f"{name}.json") or _pack(group, store, name, corpus.parent)
        kept |= {f"{name}.tar", f"{name}.json"}
        shards[f"{SHARD}{number:05d}"] = packed.tar
        tables.append(_table(number, group, packed))
    _write_table(corpus / TABLE, tables)
    store.delete([key for key in store.list(f"{prefix}/") if key not in kept])
    return shards


def _groups(corpus: Path, most: int) -> Iterator[list[_Member]]:
    """Yield the files in order, as many at a time as make a shard."""
    group: list[_Member] = []
    size = 0
    for member in _members(Corpus.open(corpus)):
        if group and size + member.bytes > most:
            yield group
            group, size = [], 0
        group.append(member)
        size += member.bytes
    if group:
        yield group


def _members(corpus: Corpus) -> Iterator[_Member]:
    """Yield each media file of the rows where it is named first."""
    indexes = [
        corpus.index(name, split)
        for name, splits in sorted(corpus.datasets.items())
        for split in splits
    ]
    keys = [_keys(index) for index in indexes]
    everything = np.concatenate([*keys, np.zeros(0, np.uint64)])
    is_first = np.zeros(len(everything), bool)
    is_first[np.unique(everything, return_index=True)[1]] = True
    number = 0
    for index in indexes:
        for kind, name, digest in _named(index):
            if is_first[number]:
                path = find_file(MediaRef.parse(name).path(index.roots), kind)
                yield _Member(digest, path, path.stat().st_size)
            number += 1


def _keys(index: Index) -> np.ndarray:
    """Return the digest of every media file that an index names, in its order, as numbers."""
    return np.fromiter((key_of_digest(digest) for _, _, digest in _named(index)), np.uint64)


def _named(index: Index) -> Iterator[tuple[Kind, str, bytes]]:
    """Yield kind, name and digest of every media file of an index."""
    for columns in index.pieces(*(column for _, column in _KINDS), "media_digests"):
        for images, videos, audios, digests in zip(*columns, strict=True):
            names = [
                (kind, name)
                for (kind, _), names in zip(_KINDS, (images, videos, audios), strict=True)
                for name in names
            ]
            for (kind, name), digest in zip(names, digests, strict=True):
                yield kind, name, digest


def _known(store: Store, key: str) -> _Packed | None:
    """Return the note of a shard that is there whole."""
    if not store.exists(key):
        return None
    packed = _Packed.model_validate_json(store.read(key))
    tar = key.removesuffix(".json") + ".tar"
    if not store.exists(tar) or store.size(tar) != packed.tar.bytes:
        return None
    # A run that was moved lies elsewhere now.
    return packed.model_copy(
        update={"tar": packed.tar.model_copy(update={"uri": store.uri_of(tar)})}
    )


def _pack(group: list[_Member], store: Store, name: str, beside: Path) -> _Packed:
    """Write a shard and its note."""
    members = []
    with translate_os_errors(beside), scratch_folder(beside, "media") as scratch:
        path = scratch / "shard.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for member in group:
                entry = tarfile.TarInfo(f"{member.digest.hex()}{member.path.suffix.lower()}")
                entry.size = member.bytes
                with member.path.open("rb") as file:
                    reader = HashingReader(file)
                    archive.addfile(entry, cast(IO[bytes], reader))
                if not reader.sha256().startswith(member.digest.hex()):
                    raise DataError(
                        f"{member.path} has changed since the data was prepared",
                        code="VT-DATA-088",
                        where=str(beside),
                        remedy="prepare the data again (--only prepare --force)",
                    )
                padded = -(-member.bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                members.append((reader.sha256(), archive.offset - padded, member.bytes))
        packed = _Packed(tar=store.upload(path, f"{name}.tar", move=True), members=members)
    store.write(f"{name}.json", packed.model_dump_json().encode())
    return packed


def _table(number: int, group: list[_Member], packed: _Packed) -> pa.Table:
    """Return the rows of a shard in the table of places."""
    return pa.table(
        [
            pa.array([key_of_digest(member.digest) for member in group], pa.uint64()),
            pa.array([number] * len(group), pa.int32()),
            pa.array([offset for _, offset, _ in packed.members], pa.int64()),
            pa.array([size for _, _, size in packed.members], pa.int64()),
            pa.array([bytes.fromhex(sha256) for sha256, _, _ in packed.members], pa.binary(32)),
        ],
        schema=MEDIA_SCHEMA,
    )


def _write_table(path: Path, tables: list[pa.Table]) -> None:
    table = pa.concat_tables([*tables, MEDIA_SCHEMA.empty_table()]).sort_by("key").combine_chunks()
    batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=MEDIA_SCHEMA)]
    with translate_os_errors(path), pa.ipc.new_file(str(path), MEDIA_SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
