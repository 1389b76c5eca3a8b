"""A prepared corpus, opened without reading it: columns are memory-mapped and rows fetched one by one."""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vita_train.data.prompt import expand, expand_labels, labels_of
from vita_train.data.reading import MediaRef
from vita_train.data.store import INDEX_FORMAT, LENGTHS, ROWS_PER_BATCH
from vita_train.data.tokenizer import Tokenizer, load_tokenizer
from vita_train.data.units import Units
from vita_train.errors import DataError
from vita_train.recipe.base import Strict
from vita_train.recipe.data import DataSpec
from vita_train.recipe.model import AudioAdapterSpec, VisionSpec

if TYPE_CHECKING:
    from torch import Tensor

_REMEDY = "prepare the data again"


class MediaSettings(Strict):
    """The settings media were counted with; samples load them with the same."""

    data: DataSpec
    vision: VisionSpec
    adapter: AudioAdapterSpec
    mel_bins: int


@dataclass
class Sample:
    """One conversation, ready to be trained on. Media are loaded when asked for."""

    dataset: str
    split: str
    index: int
    record_id: str
    """The record's own id."""
    ids: np.ndarray
    """(n,) int32, media compact: one id for each file."""
    spans: list[tuple[int, int]]
    """Supervised stretches of ``ids``: first, one past the last."""
    runs: np.ndarray
    """Language positions of each media id, in order."""
    turns: list[str]
    """Texts of human, gpt, human, ... turns as the record has them."""
    inserted: int
    """Turn that answers sound not meant for the assistant; -1 without."""
    images: list[Path]
    image_tiles: list[int]
    image_tiled: list[bool]
    """False for pictures of a set that is never tiled."""
    videos: list[Path]
    video_places: list[int]
    audios: list[Path]
    audio_frames: list[int]
    tokens: int
    """Language positions after expansion."""
    tiles: int
    frames: int
    supervised: int
    seconds: float
    settings: MediaSettings = field(repr=False)
    features: list[np.ndarray] = field(default_factory=list, repr=False)
    """Stored filterbank features of each clip, float16; empty when they are not stored."""
    seed: int = 0
    """Of this visit; the loader sets it from the order's seed, the epoch and the sample."""

    @property
    def id(self) -> str:
        """Unique name within the corpus, ``vqa/train/17``."""
        return f"{self.dataset}/{self.split}/{self.index}"

    @property
    def name(self) -> str:
        """The id with the record's own, for messages."""
        return f"{self.id} ({self.record_id})"

    @property
    def text(self) -> str:
        """The last answer."""
        return self.turns[-1]

    @property
    def input_ids(self) -> np.ndarray:
        """(n,) compact ids."""
        return self.ids

    @property
    def labels(self) -> np.ndarray:
        """(n,) labels of the compact ids."""
        return np.asarray(labels_of(self.ids.tolist(), self.spans), dtype=np.int32)

    @property
    def prompt_ids(self) -> np.ndarray:
        """Compact ids up to and with the open header of the last reply; the state mark is not in it."""
        return self.ids[:self.spans[-1][0]]

    def expanded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and labels with a media id at every position that media fill: (tokens,), (tokens,)."""
        return expand(self.ids, self.runs), expand_labels(self.ids, self.labels, self.runs)

    def load_pixels(self) -> np.ndarray:
        """Return tiles and frames as (N, S, S, 3) uint8, in the order of the placeholders.

        Raises:
            DataError: a file cannot be decoded any more, or has changed since the data was prepared.
        """
        from vita_train.data.media import MediaError
        from vita_train.data.media.image import cut_tiles, open_image
        from vita_train.data.media.video import load_frames

        spec, side = self.settings.data.image, self.settings.vision.image_size
        try:
            parts = [cut_tiles(open_image(path), spec, side, tiled=tiled)
                     for path, tiled in zip(self.images, self.image_tiled, strict=True)]
            parts += [load_frames(path, self.video_places, spec, side) for path in self.videos]
        except MediaError as error:
            raise DataError(error.detail, where=self.name, remedy=_REMEDY) from error
        pixels = np.concatenate(parts) if parts else np.zeros((0, side, side, 3), np.uint8)
        self._unchanged(len(pixels), self.tiles, "tiles")
        return pixels

    def load_tiles(self) -> Tensor:
        """Return tiles and frames as (N, 3, S, S) float32, normalised for the vision tower."""
        from vita_train.data.media.image import normalise

        return normalise(self.load_pixels(), self.settings.vision)

    def load_wave(self, clip: int = 0, rate: int | None = None) -> np.ndarray:
        """Return a clip as (samples,) float32 at ``rate`` (the recipe's if none).

        Raises:
            DataError: the file cannot be decoded any more.
        """
        from vita_train.data.media import MediaError
        from vita_train.data.media.audio import load_wave

        try:
            return load_wave(self.audios[clip], rate or self.settings.data.audio.sample_rate)
        except MediaError as error:
            raise DataError(error.detail, where=self.name, remedy=_REMEDY) from error

    def load_fbank(self, clip: int = 0) -> Tensor:
        """Return the filterbank features of a clip, (frames, mel bins) float32.

        Raises:
            DataError: the file cannot be decoded any more, or has another length than when the data was prepared.
        """
        import torch

        from vita_train.data.media.audio import fbank

        if self.features:
            return torch.from_numpy(self.features[clip].astype(np.float32))
        rate = self.settings.data.audio.sample_rate
        features = fbank(self.load_wave(clip), rate, self.settings.mel_bins)
        self._unchanged(len(features), self.audio_frames[clip], "sound frames")
        return features

    def _unchanged(self, found: int, prepared: int, what: str) -> None:
        if found != prepared:
            raise DataError(f"has {found} {what} but had {prepared} when the data was prepared", where=self.name,
                            remedy=_REMEDY)


class Index:
    """Rows of one split. Opening reads the footer only; it can be sent to other processes.

    Attributes:
        lengths: (rows, 3) int32, memory-mapped: tokens, tiles, filterbank frames.
        digest: of ids, tokens and lengths of all rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        meta = _read_json(path / "meta.json")
        if meta.get("format") != INDEX_FORMAT:
            raise DataError(f"index has format {meta.get('format')!r}, expected {INDEX_FORMAT!r}", where=str(path),
                            remedy=_REMEDY)
        self.dataset: str = meta["dataset"]
        self.split: str = meta["split"]
        self.digest: str = meta["digest"]
        self.roots = {key: (path / root).resolve() for key, root in meta["roots"].items()}
        self._rows: int = meta["rows"]
        self._bins: int = meta["feature_bins"]
        self._feature_frames: int = meta["feature_frames"]
        self.settings = MediaSettings.model_validate(meta["settings"])
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path / "index.arrow")))
            self.lengths = self._map("lengths.bin", "<i4", (self._rows, len(LENGTHS)), soon=True)
            self._features = (self._map("features.bin", "<f2", (self._feature_frames, self._bins))
                              if self._bins else None)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"index cannot be opened: {error}", where=str(path), remedy=_REMEDY) from error
        self._batch: tuple[int, Any] = (-1, None)

    def _map(self, name: str, kind: str, shape: tuple[int, int], *, soon: bool = False) -> np.ndarray:
        """Map a table. ``soon``: begin to read it now, since planning will touch it all over."""
        if 0 in shape:
            return np.zeros(shape, kind)
        with (self.path / name).open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), shape[0] * shape[1] * np.dtype(kind).itemsize, access=mmap.ACCESS_READ)
        if soon:
            mapped.madvise(mmap.MADV_WILLNEED)
        return np.frombuffer(mapped, dtype=kind).reshape(shape)

    def __reduce__(self) -> tuple[type[Index], tuple[Path]]:
        return Index, (self.path,)

    def __len__(self) -> int:
        return self._rows

    @property
    def tokens(self) -> np.ndarray:
        """(rows,) language positions."""
        return self.lengths[:, 0]

    @property
    def tiles(self) -> np.ndarray:
        """(rows,) tiles and video frames."""
        return self.lengths[:, 1]

    @property
    def frames(self) -> np.ndarray:
        """(rows,) filterbank frames."""
        return self.lengths[:, 2]

    def column(self, name: str) -> list[Any]:
        """Return a whole column (statistics, small splits)."""
        return [value for number in range(self._reader.num_record_batches)
                for value in self._reader.get_batch(number).column(name).to_pylist()]

    def sample(self, place: int) -> Sample:
        """Fetch a row. Touches the pages of that row only."""
        if not 0 <= place < self._rows:
            raise IndexError(f"{self.dataset}/{self.split} has {self._rows} rows, asked for {place}")
        number, row = divmod(place, ROWS_PER_BATCH)
        if self._batch[0] != number:
            self._batch = (number, self._reader.get_batch(number))
        batch = self._batch[1]

        def get(name: str) -> Any:
            return batch.column(name)[row].as_py()

        tokens, tiles, frames = (int(value) for value in self.lengths[place])
        spans = get("spans")
        images = [MediaRef.parse(text) for text in get("images")]
        never = self.settings.data.image.no_tile_sets
        audio_frames = get("audio_frames")
        return Sample(
            dataset=self.dataset, split=self.split, index=place, record_id=get("id"),
            ids=np.asarray(get("ids"), dtype=np.int32), spans=list(zip(spans[::2], spans[1::2], strict=True)),
            runs=np.asarray(get("runs"), dtype=np.int32), turns=get("turns"), inserted=get("inserted"),
            images=[ref.path(self.roots) for ref in images], image_tiles=get("image_tiles"),
            image_tiled=[ref.root not in never for ref in images],
            videos=self._paths(get("videos")), video_places=get("video_places"),
            audios=self._paths(get("audios")), audio_frames=audio_frames,
            tokens=tokens, tiles=tiles, frames=frames, supervised=get("supervised"), seconds=get("seconds"),
            settings=self.settings, features=self._stored(get("feature_offset"), audio_frames),
        )

    def _paths(self, refs: Sequence[str]) -> list[Path]:
        return [MediaRef.parse(text).path(self.roots) for text in refs]

    def _stored(self, offset: int, frames: Sequence[int]) -> list[np.ndarray]:
        if self._features is None or not frames:
            return []
        edges = np.cumsum([offset, *frames])
        return [self._features[start:end] for start, end in pairwise(edges)]


class Corpus:
    """Everything that preparation made: tokenizer, recogniser units and the index of every split."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.digest: str = meta["digest"]
        self.datasets: dict[str, list[str]] = meta["datasets"]
        """Dataset name to its splits."""
        self._open: dict[tuple[str, str], Index] = {}

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Open a prepared directory.

        Raises:
            DataError: it is not one.
        """
        path = Path(path)
        return cls(path, _read_json(path / "meta.json"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""
        return load_tokenizer(self.path / "tokenizer")

    @cached_property
    def units(self) -> Units:
        """The recogniser's inventory."""
        return Units.load(self.path / "units.json")

    def index(self, dataset: str, split: str) -> Index:
        """Open a split.

        Raises:
            DataError: there is no such dataset or split; those that exist are listed.
        """
        if split not in self.datasets.get(dataset, []):
            splits = self.datasets.get(dataset)
            known = f"{dataset} has {', '.join(splits)}" if splits else f"datasets are {', '.join(self.datasets)}"
            raise DataError(f"no split {dataset}/{split}", where=str(self.path), remedy=known)
        key = (dataset, split)
        if key not in self._open:
            self._open[key] = Index(self.path / dataset / split)
        return self._open[key]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        fault = "not an object"
    except (OSError, ValueError) as error:
        fault = str(error)
    raise DataError(f"prepared data cannot be read: {fault}", where=str(path), remedy=_REMEDY)
