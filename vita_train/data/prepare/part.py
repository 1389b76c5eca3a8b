"""What becomes of a shard: a folder with its rows, what was rejected and what was counted, that
gets its name when it is whole.

A part is found again by the digest of its shard and of all settings that its rows depend on. What a
digest cannot know is looked at: the size and time of every media file, the bytes of its own files,
and where a record goes by its place in the file, that place.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa

from vita_train.data.media import MediaError
from vita_train.data.media.door import Kind, find_file
from vita_train.data.prepare.cuts import CUTS, Cuts, Stretch
from vita_train.data.prepare.exchange import PartExchange
from vita_train.data.prepare.ledger import Counts
from vita_train.data.prepare.row_encoder import media_refs
from vita_train.data.sources.reading import Reject, Row
from vita_train.recipe.base import Strict
from vita_train.storage.digest import digest_of, sha256_file

# To be raised with whatever changes what a part holds, a mended fault of ours above all: parts that
# were kept from before are then made anew
PART_FORMAT = "vita-train/part/v3"
ROWS, FEATURES = "rows.arrow", "features.bin"
_MARKER = "part.json"
#: Folder of parts that are being written.
_NEW = "new"


class Stamp(Strict):
    """A media file as it was when it was decoded."""

    path: str
    """Below the registry's folder, where it lies there: that has another place on other machines.
    """
    kind: Kind
    bytes: int
    """-1 where there was no such file."""
    changed: int
    """Time of the last change in nanoseconds."""

    @classmethod
    def of(cls, path: Path, kind: Kind, base: Path) -> Stamp:
        """Look at a file; ``base`` is the registry's folder."""
        named = below(path, base)
        try:
            status = find_file(path, kind).stat()
            return cls(path=named, kind=kind, bytes=status.st_size, changed=status.st_mtime_ns)
        except (MediaError, OSError):
            return cls(path=named, kind=kind, bytes=-1, changed=0)


class RejectedRow(Strict):
    """A record that is not used; ``place`` counts the records of the shard."""

    place: int
    reason: str
    detail: str
    id: str


class PartInfo(Strict):
    """The marker of a part, written last."""

    format: Literal["vita-train/part/v3"] = "vita-train/part/v3"
    records: int
    counts: Counts
    rejects: list[RejectedRow]
    units: list[str]
    """Characters or words of the transcripts, where they are asked for; sorted."""
    media: list[Stamp]
    places: str
    """Digest of the records' places in the file, if a record without an id is named by its own."""
    files: dict[str, tuple[str, int]]
    """Name to sha256 and bytes."""


class Part:
    """A committed part."""

    def __init__(self, folder: Path, info: PartInfo) -> None:
        self.folder = folder
        self.info = info

    @cached_property
    def table(self) -> pa.Table:
        """Its rows, memory-mapped."""
        with pa.memory_map(str(self.folder / ROWS)) as source:
            return pa.ipc.open_file(source).read_all()

    def rejects(self, rows: Sequence[int]) -> list[Reject]:
        """Return what was rejected, with the rows' places in the file."""
        return [
            Reject(rows[each.place], each.reason, each.detail, each.id)
            for each in self.info.rejects
        ]


class PartStore:
    """The folder with the parts of a corpus.

    Args:
        root: made if it is not there.
        base: the registry's folder.
        exchange: where other machines put the parts that they make.
    """

    def __init__(self, root: Path, base: Path, exchange: PartExchange | None = None) -> None:
        self.root, self.base = root, base
        self._exchange = exchange
        self._used: set[Path] = set()
        self._cuts = Cuts()

    @staticmethod
    def knows(names: set[str]) -> bool:
        """Say whether entries of a folder are none but those of a folder of parts."""
        return all(name in (_NEW, CUTS) or re.fullmatch("[0-9a-f]{2}", name) for name in names)

    def clear(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.root, ignore_errors=True)

    def clear_unfinished(self) -> None:
        """Remove what killed processes were writing. No other may be at work here."""
        shutil.rmtree(self.root / _NEW, ignore_errors=True)

    def find(self, key: str, rows: Sequence[int]) -> Part | None:
        """Return a part that holds what making it again would give; None where it has to be
        made."""
        return self._here(key, rows) or (self._here(key, rows) if self._brought(key) else None)

    def _brought(self, key: str) -> bool:
        """Bring a part that another machine made, in the place of one that does not hold; say
        whether there was one."""
        if self._exchange is None or not self._exchange.has(key):
            return False
        written = self.new_folder(key)
        self._exchange.get(key, written)
        self._put(key, written)
        return True

    def _here(self, key: str, rows: Sequence[int]) -> Part | None:
        folder = self._folder(key)
        try:
            info = PartInfo.model_validate_json((folder / _MARKER).read_bytes())
            holds = (
                (not info.places or info.places == places_digest(rows))
                and all(
                    # A full path in a stamp stands: joining drops what is before it
                    Stamp.of(self.base / each.path, each.kind, self.base) == each
                    for each in info.media
                )
                and all(
                    # Size first: most damage is seen without reading the file
                    (folder / name).stat().st_size == size and sha256_file(folder / name) == sha256
                    for name, (sha256, size) in info.files.items()
                )
            )
        except (OSError, ValueError):
            return None
        if not holds:
            return None
        self._used.add(folder)
        return Part(folder, info)

    def new_folder(self, key: str) -> Path:
        """Return an empty folder to write a part in."""
        # With the process's number: two may make the same part, and the last one to finish wins
        folder = self.root / _NEW / f"{key}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def commit(self, key: str, written: Path, info: PartInfo) -> Part:
        """Give a part that was written its name."""
        # Last within the folder, which then gets its name: without a marker nothing counts
        (written / _MARKER).write_text(info.model_dump_json(), encoding="utf-8")
        return self.used(Part(self._put(key, written), info))

    def _put(self, key: str, written: Path) -> Path:
        folder = self._folder(key)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(written, folder)
        return folder

    def share(self, part: Part) -> None:
        """Hand a part to other machines, unless they have it."""
        if self._exchange is not None:
            self._exchange.put(part.folder.name, part.folder)

    def used(self, part: Part) -> Part:
        """Take note that this preparation needs a part."""
        self._used.add(part.folder)
        return part

    @cached_property
    def known(self) -> Cuts:
        """Where shards ended in the preparation before."""
        return Cuts.load(self.root)

    def keep_cuts(self, split: str, found: list[Stretch]) -> None:
        """Take note of where the first shards of a split end."""
        self._cuts.splits[split] = found

    def prune(self) -> None:
        """Remove the parts that this preparation did not need, and keep where its shards end."""
        self.clear_unfinished()
        self._cuts.save(self.root)
        if self._exchange is not None:
            self._exchange.prune({folder.name for folder in self._used})
        for folder in sorted(self.root.glob("*/*")):
            if folder not in self._used:
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, key: str) -> Path:
        # By the first two digits: a folder with a hundred thousand entries is slow to list
        return self.root / key[:2] / key


def places_digest(rows: Sequence[int]) -> str:
    """Return a digest of places in a file."""
    return digest_of(list(rows))


def stamps_of(row: Row, roots: Mapping[str, Path], base: Path) -> list[Stamp]:
    """Look at the media of a record; ``base`` is the registry's folder."""
    return [Stamp.of(ref.path(roots), kind, base) for kind, refs in media_refs(row) for ref in refs]


def below(path: Path, base: Path) -> str:
    """Return a path from a folder on, where it lies below that."""
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def file_notes(folder: Path) -> dict[str, tuple[str, int]]:
    """Return sha256 and bytes of the files of a folder."""
    return {
        path.name: (sha256_file(path), path.stat().st_size) for path in sorted(folder.iterdir())
    }
