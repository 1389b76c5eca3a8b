"""The records of one split, as the registry says they are to be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vita_train.data.sources.reading import Reject, Row, Rules, read_records, text_to_row
from vita_train.data.sources.registry import AudioLimits, Dataset, Registry, resolve
from vita_train.data.sources.splitting import TRAIN, Partition, SplitOff, keys_of, partition
from vita_train.data.sources.texts import RowError, read_texts
from vita_train.errors import DataError


@dataclass(frozen=True)
class RecordSource:
    """Record file, media roots and rules of one split."""

    dataset: str
    split: str
    path: Path
    roots: Mapping[str, Path]
    rules: Rules
    audio: AudioLimits | None = None
    """Limits of the recordings of an audio special set."""
    split_off: SplitOff | None = None
    """What is split off the file; only the records of ``split`` are read then."""

    def rows(self) -> Iterator[Row | Reject]:
        """Yield the rows of the split; row numbers are those of the file.

        Raises:
            DataError: the file cannot be read, or cannot be divided as the registry says.
        """
        if self.split_off is None:
            yield from read_records(self.path, self.roots, self.rules)
            return
        dealt = self._partition()
        for row in read_records(self.path, self.roots, self.rules):
            if dealt.of(row) != self.split:
                continue
            keys = keys_of(row, self.split_off) if isinstance(row, Row) else None
            yield keys if isinstance(keys, Reject) else row

    def records(self, start: int = 0, first: int = 0) -> Iterator[tuple[int, str | RowError]]:
        """Yield place in the file and JSON text of every record of the split; `row_of` makes rows
        of them, `rows` is both in one go.

        Args:
            start, first: byte and number of the record to begin with, of a file of lines.

        Raises:
            DataError: as of `rows`.
        """
        texts = enumerate(read_texts(self.path, start), first)
        if self.split_off is None:
            yield from texts
            return
        dealt = self._partition()
        for row, text in texts:
            if dealt.of(text_to_row(row, text, self.roots, self.rules)) == self.split:
                yield row, text

    def row_of(self, row: int, text: str | RowError) -> Row | Reject:
        """Check a record that `records` gave."""
        found = text_to_row(row, text, self.roots, self.rules)
        if self.split_off is None or isinstance(found, Reject):
            return found
        keys = keys_of(found, self.split_off)
        return keys if isinstance(keys, Reject) else found

    def checked_rows(self) -> Iterator[Row | Reject]:
        """Yield the rows as `rows` does, and stop at the first file below a root that is missing or
        holds nothing: every record of it would be rejected one by one.

        Raises:
            DataError: such a root, or as of `rows`.
        """
        sound: set[str] = set()
        for row in self.rows():
            self.check_roots(row, sound)
            yield row

    def check_roots(self, row: Row | Reject, sound: set[str]) -> None:
        """Look at the roots of a row's media, but for those that are ``sound``, and add them there.

        Raises:
            DataError: one is missing or holds nothing.
        """
        if isinstance(row, Row):
            for ref in (*row.images, *row.videos, *row.audios):
                if ref.root not in sound:
                    self._check_root(ref.root)
                    sound.add(ref.root)

    def root_fault(self, key: str) -> str:
        """Say what is wrong with a media root as a whole; nothing where it holds something."""
        try:
            with os.scandir(self.roots[key]) as entries:
                return "" if next(entries, None) else "is empty"
        except FileNotFoundError:
            return "does not exist"
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    def _check_root(self, key: str) -> None:
        if fault := self.root_fault(key):
            raise DataError(
                f"the media root {key!r} of {self.dataset}/{self.split}, {self.roots[key]}, "
                f"{fault}",
                code="VT-DATA-049",
                where=str(self.path),
                remedy="fetch or unpack the media, or correct the root",
            )

    def _partition(self) -> Partition:
        assert self.split_off is not None
        status = self.path.stat() if self.path.exists() else None
        return _dealt(
            self.split_off.model_dump_json(),
            self.path,
            tuple(sorted(self.roots.items())),
            self.rules,
            (status.st_mtime_ns, status.st_size) if status else (0, 0),
            self.dataset,
        )


@lru_cache(maxsize=16)
def _dealt(
    spec: str,
    path: Path,
    roots: tuple[tuple[str, Path], ...],
    rules: Rules,
    _changed: tuple[int, int],
    dataset: str,
) -> Partition:
    return partition(
        SplitOff.model_validate_json(spec),
        lambda: read_records(path, dict(roots), rules),
        f"{dataset} ({path})",
    )


def open_split(registry_path: Path, registry: Registry, dataset: str, split: str) -> RecordSource:
    """Return where and how the records of a split are read; ``registry_path`` is the registry's
    file."""
    entry = registry.datasets[dataset]
    source = entry.splits.get(split) or entry.splits[TRAIN]
    return RecordSource(
        dataset,
        split,
        resolve(registry_path, source.records),
        {key: resolve(registry_path, root) for key, root in source.roots.items()},
        Rules(entry.leniencies, source.default),
        registry.audio_sets.get(dataset),
        _off(entry, split),
    )


def _off(entry: Dataset, split: str) -> SplitOff | None:
    is_part = entry.split_off is not None and (split == TRAIN or split in entry.split_off.parts)
    return entry.split_off if is_part else None


def open_splits(registry_path: Path, registry: Registry) -> list[RecordSource]:
    """Return every split of a registry, those that are split off included, sorted."""
    return [
        open_split(registry_path, registry, name, split)
        for name in sorted(registry.datasets)
        for split in sorted(registry.datasets[name].split_names)
    ]
