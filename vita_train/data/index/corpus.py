"""A prepared corpus, opened without reading it: columns are memory-mapped and rows fetched one by
one."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vita_train.data.index.media_shards import TABLE, ShardedMedia, shards_of
from vita_train.data.index.sample import REMEDY, FirstReads, MediaSettings, Sample
from vita_train.data.prepare.ctc_vocab import CtcVocab
from vita_train.data.prepare.index_writer import INDEX_FORMAT, LENGTHS, ROWS_PER_BATCH
from vita_train.data.prepare.tokenizer import Tokenizer, load_tokenizer
from vita_train.data.sources.reading import MediaRef
from vita_train.errors import DataError, VitaError
from vita_train.recipe.special_ids import IMAGE_ID
from vita_train.recipe.stage import StageSpec
from vita_train.recipe.visual import TileTokens
from vita_train.runs.run import Run
from vita_train.storage.host_cache import known_digest


class Index:
    """Rows of one split. Opening reads the footer only; it can be sent to other processes.

    Attributes:
        lengths: (rows, 3) int32, memory-mapped: tokens, tiles, filterbank frames.
        digest: of ids, tokens and lengths of all rows.

    Args:
        path: of the split.
        shards: where the media are, if they were packed.
        whole: as if no tokens of tiles were merged, for stages that merge none.
    """

    def __init__(
        self, path: Path, shards: ShardedMedia | None = None, *, whole: bool = False
    ) -> None:
        self.path = path
        self._shards = shards
        meta = _read_json(path / "meta.json")
        if meta.get("format") != INDEX_FORMAT:
            raise DataError(
                f"index has format {meta.get('format')!r}, expected {INDEX_FORMAT!r}",
                code="VT-DATA-002",
                where=str(path),
                remedy=REMEDY,
            )
        self.dataset: str = meta["dataset"]
        self.split: str = meta["split"]
        self.digest: str = meta["digest"]
        self.roots = {key: (path / root).resolve() for key, root in meta["roots"].items()}
        self._rows: int = meta["rows"]
        self._bins: int = meta["feature_bins"]
        self._feature_frames: int = meta["feature_frames"]
        self.settings = MediaSettings.model_validate(meta["settings"])
        self._unread: dict[str, str] = meta.get(
            "sha256", {}
        )  # of the tables that have not been held against it yet
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path / "index.arrow")))
            self.lengths = self._map("lengths.bin", "<i4", (self._rows, len(LENGTHS)), soon=True)
            self._features = (
                self._map("features.bin", "<f2", (self._feature_frames, self._bins))
                if self._bins
                else None
            )
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"index cannot be opened: {error}",
                code="VT-DATA-003",
                where=str(path),
                remedy=REMEDY,
            ) from error
        self._merged = self.settings.tile_tokens if whole else None
        if self._merged is not None:
            self.settings = self.settings.whole
            self.lengths = self._whole_lengths(self._merged)
        self._batch: tuple[int, Any] = (-1, None)
        self._first_reads = FirstReads(self._rows)

    def _map(
        self, name: str, kind: str, shape: tuple[int, int], *, soon: bool = False
    ) -> np.ndarray:
        """Map a table. ``soon``: begin to read it now, since planning will touch it all over."""
        if 0 in shape:
            return np.zeros(shape, kind)
        with (self.path / name).open("rb") as stream:
            mapped = mmap.mmap(
                stream.fileno(),
                shape[0] * shape[1] * np.dtype(kind).itemsize,
                access=mmap.ACCESS_READ,
            )
        if soon:
            mapped.madvise(mmap.MADV_WILLNEED)
        return np.frombuffer(mapped, dtype=kind).reshape(shape)

    def __reduce__(self) -> tuple[Callable[..., Index], tuple[Path, ShardedMedia | None]]:
        return partial(Index, whole=self._merged is not None), (self.path, self._shards)

    def _whole_lengths(self, tile: TileTokens) -> np.ndarray:
        """Return the lengths without merging."""
        lengths = self.lengths.copy()
        videos: np.ndarray | int = 0
        if tile.first_whole:
            videos = np.fromiter(map(len, self.column("videos")), lengths.dtype, len(self))
        lengths[:, 0] += tile.saved(lengths[:, 1], videos)
        return lengths

    def __len__(self) -> int:
        return self._rows

    @property
    def tokens(self) -> np.ndarray:
        """(rows,) tokens."""
        return self.lengths[:, 0]

    @property
    def tiles(self) -> np.ndarray:
        """(rows,) tiles of images and videos."""
        return self.lengths[:, 1]

    @property
    def frames(self) -> np.ndarray:
        """(rows,) filterbank frames."""
        return self.lengths[:, 2]

    def _check_tables(self) -> None:
        """Hold the tables against the digests they were written with, once, when the first row is
        read.

        Raises:
            DataError: a table is not what was written, or gone.
        """
        while self._unread:
            name, sha256 = self._unread.popitem()
            check_file(self.path / name, sha256)

    def column(self, name: str) -> list[Any]:
        """Return a whole column (statistics, small splits)."""
        return [value for (values,) in self.pieces(name) for value in values]

    def pieces(self, *names: str) -> Iterator[list[list[Any]]]:
        """Yield some columns piece by piece, so that memory does not depend on the rows."""
        self._check_tables()
        for number in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(number)
            yield [batch.column(name).to_pylist() for name in names]

    def total(self, name: str) -> int:
        """Return the sum of a column of numbers, one batch of rows in memory at a time."""
        self._check_tables()
        return sum(
            int(np.sum(self._reader.get_batch(number).column(name).to_numpy()))
            for number in range(self._reader.num_record_batches)
        )

    def sample(self, index: int) -> Sample:
        """Fetch a row. Touches the pages of that row only, but for the first, before which the
        tables are checked.

        Raises:
            DataError: a table is not what was prepared.
        """
        self._check_tables()
        if not 0 <= index < self._rows:
            raise IndexError(
                f"{self.dataset}/{self.split} has {self._rows} rows, asked for {index}"
            )
        number, row = divmod(index, ROWS_PER_BATCH)
        if self._batch[0] != number:
            self._batch = (number, self._reader.get_batch(number))
        batch = self._batch[1]

        def get(name: str) -> Any:
            return batch.column(name)[row].as_py()

        tokens, tiles, frames = (int(value) for value in self.lengths[index])
        spans = get("spans")
        images, videos, audios = (
            [MediaRef.parse(text) for text in get(kind)] for kind in ("images", "videos", "audios")
        )
        states, image_tiles = get("states"), get("image_tiles")
        ids, runs = np.asarray(get("ids"), np.int32), np.asarray(get("runs"), np.int32)
        if self._merged is not None:
            of_video = tiles - sum(image_tiles)
            shown = [*image_tiles, of_video] if of_video else image_tiles
            runs[ids[ids < 0] == IMAGE_ID] = np.asarray(shown) * self._merged.whole
        never = self.settings.data.image.no_tile_sets
        audio_frames = get("audio_frames")
        return Sample(
            dataset=self.dataset,
            split=self.split,
            index=index,
            record_id=get("id"),
            ids=ids,
            spans=list(zip(spans[::2], spans[1::2], strict=True)),
            runs=runs,
            turns=get("turns"),
            inserted=get("inserted"),
            images=[ref.path(self.roots) for ref in images],
            image_tiles=image_tiles,
            image_tiled=[ref.root not in never for ref in images],
            videos=[ref.path(self.roots) for ref in videos],
            video_frame_indices=get("video_frame_indices"),
            video_tiled=[ref.root not in never for ref in videos],
            audios=[ref.path(self.roots) for ref in audios],
            audio_cuts=[ref.cut for ref in audios],
            audio_frames=audio_frames,
            media_digests=get("media_digests"),
            first_reads=self._first_reads,
            shards=self._shards,
            tokens=tokens,
            tiles=tiles,
            frames=frames,
            supervised=get("supervised"),
            seconds=get("seconds"),
            states=list(zip(states[::2], states[1::2], strict=True)),
            settings=self.settings,
            features=self._stored(get("feature_offset"), audio_frames),
        )

    def _stored(self, offset: int, frames: Sequence[int]) -> list[np.ndarray]:
        if self._features is None or not frames:
            return []
        edges = np.cumsum([offset, *frames])
        return [self._features[start:end] for start, end in pairwise(edges)]


class Corpus:
    """Everything that preparation made: tokenizer, recogniser units and the index of every
    split."""

    def __init__(
        self,
        path: Path,
        meta: dict[str, Any],
        shards: ShardedMedia | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self.path = path
        self._meta, self._shards, self._whole = meta, shards, whole
        self.digest: str = meta["digest"]
        self.datasets: dict[str, list[str]] = meta["datasets"]
        """Dataset name to its splits."""
        self.tasks: dict[str, str] = meta["tasks"]
        """Dataset name to the kind of its task."""
        self.ratios: dict[str, float] = meta.get("ratios", {})
        """Dataset name to the registry's ratio, where it is not 1."""
        self._sha256: dict[str, str] = meta.get("sha256", {})  # of tokenizer and units
        self._open: dict[tuple[str, str], Index] = {}

    @classmethod
    def open(cls, path: Path | str, shards: ShardedMedia | None = None) -> Corpus:
        """Open a prepared directory.

        Args:
            path: the directory.
            shards: where its media are, if they were packed (`open_corpus` finds them).

        Raises:
            DataError: it is not one.
        """
        path = Path(path)
        meta = _read_json(path / "meta.json")
        if "tasks" not in meta:
            raise DataError(
                "prepared data do not say what their tasks are",
                code="VT-DATA-006",
                where=str(path / "meta.json"),
                remedy=REMEDY,
            )
        return cls(path, meta, shards)

    def for_stage(self, spec: StageSpec) -> Corpus:
        """Return the corpus as a stage sees it, which may leave tokens of tiles unmerged."""
        return (
            self
            if spec.merge_visual_tokens
            else Corpus(self.path, self._meta, self._shards, whole=True)
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer.

        Raises:
            DataError: it is not the one that the data were prepared with.
        """
        self._check("tokenizer/")
        return load_tokenizer(self.path / "tokenizer")

    @cached_property
    def ctc_vocab(self) -> CtcVocab:
        """The recogniser's inventory.

        Raises:
            DataError: it is not the one that the data were prepared with.
        """
        self._check("ctc_vocab.json")
        return CtcVocab.load(self.path / "ctc_vocab.json")

    def _check(self, start: str) -> None:
        for name, sha256 in self._sha256.items():
            if name.startswith(start):
                check_file(self.path / name, sha256)

    def index(self, dataset: str, split: str) -> Index:
        """Open a split.

        Raises:
            DataError: there is no such dataset or split; those that exist are listed.
        """
        if split not in self.datasets.get(dataset, []):
            splits = self.datasets.get(dataset)
            known = (
                f"{dataset} has {', '.join(splits)}"
                if splits
                else f"datasets are {', '.join(self.datasets)}"
            )
            raise DataError(
                f"no split {dataset}/{split}",
                code="VT-DATA-007",
                where=str(self.path),
                remedy=known,
            )
        key = (dataset, split)
        if key not in self._open:
            self._open[key] = Index(self.path / dataset / split, self._shards, whole=self._whole)
        return self._open[key]


def open_corpus(run: Run) -> Corpus:
    """Open the prepared corpus of a run on this machine, brought here first if another one prepared
    it; its media too, unless they lie in shards.

    Raises:
        DataError: it is none.
        StorageError, UserError: as `Store` says.
    """
    storage = run.recipe.storage
    if storage.media == "in_place":
        return Corpus.open(run.present_corpus())
    path, prepared = run.present_corpus(media=False), run.final("prepare")
    shards = shards_of(prepared.files) if prepared else []
    limit = int(storage.media_cache_gb * 1e9)
    return Corpus.open(path, ShardedMedia(path / TABLE, shards, storage.endpoint, limit))


def check_file(path: Path, sha256: str) -> None:
    """Hold a prepared file against the digest it was written with.

    Raises:
        DataError: it is another, or gone.
    """
    try:
        found = known_digest(path)
    except (OSError, VitaError) as error:
        raise DataError(
            f"prepared data cannot be read: {error}",
            code="VT-DATA-004",
            where=str(path),
            remedy=REMEDY,
        ) from error
    if found != sha256:
        raise DataError(
            "does not hold the bytes that were prepared (sha256 differs)",
            code="VT-DATA-005",
            where=str(path),
            remedy=REMEDY,
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        fault = "not an object"
    except (OSError, ValueError) as error:
        fault = str(error)
    raise DataError(
        f"prepared data cannot be read: {fault}", code="VT-DATA-008", where=str(path), remedy=REMEDY
    )
