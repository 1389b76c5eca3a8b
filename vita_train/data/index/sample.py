"""One row of a prepared corpus: its token ids and labels at hand, its media loaded when asked
for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vita_train.data.prepare.positions import positions_of
from vita_train.data.prepare.prompt import expand, expand_labels, expand_states, labels_of
from vita_train.errors import DataError
from vita_train.printable import printable
from vita_train.recipe.audio import AudioAdapterSpec
from vita_train.recipe.base import Strict
from vita_train.recipe.data import DataSpec
from vita_train.recipe.vision import ProjectorSpec, VisionSpec, tile_tokens
from vita_train.recipe.visual import TileTokens, image_tokens, video_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from vita_train.data.index.media_shards import ShardedMedia
    from vita_train.data.media.door import Kind

#: What to do when a prepared corpus does not fit what it was made from.
REMEDY = "prepare the data again"


class MediaSettings(Strict):
    """The settings media were counted with; samples load them with the same."""

    data: DataSpec
    vision: VisionSpec
    projector: ProjectorSpec = ProjectorSpec()
    adapter: AudioAdapterSpec
    mel_bins: int

    @property
    def tile_tokens(self) -> TileTokens:
        """Tokens a tile takes, before any pooling of videos."""
        return tile_tokens(self.vision, self.projector)

    @property
    def whole(self) -> MediaSettings:
        """The same, but no tokens are merged."""
        return self.model_copy(update={"vision": self.vision.model_copy(update={"merge": None})})


class FirstReads:
    """Which rows' files this process has held against their digests already.

    Args:
        rows: of the index.
    """

    PIXELS, AUDIO = 1, 2

    def __init__(self, rows: int) -> None:
        self._seen = np.zeros(rows, np.uint8)  # memory comes with the rows that are read

    def has(self, row: int, files: int) -> bool:
        """Say whether these files of a row have been looked at."""
        return bool(self._seen[row] & files)

    def add(self, row: int, files: int) -> None:
        """Take note that these files of a row are what was prepared."""
        self._seen[row] |= files


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
    """Tokens of each media id, in order."""
    turns: list[str]
    """Texts of human, gpt, human, ... turns as the record has them."""
    inserted: int
    """Turn that answers audio not meant for the assistant; -1 without."""
    images: list[Path]
    image_tiles: list[int]
    image_tiled: list[bool]
    """False for images of a set that is never tiled."""
    videos: list[Path]
    video_frame_indices: list[int]
    video_tiled: list[bool]
    """False for videos of a set that is never tiled."""
    audios: list[Path]
    """Of each clip, its file; chunks of a long recording have the same."""
    audio_cuts: list[tuple[int, int] | None]
    """Of each clip, first sample and one past the last at the recipe's rate; None is the whole."""
    audio_frames: list[int]
    media_digests: list[bytes]
    """Of each file of ``images``, ``videos`` and ``audios``, in this order, as prepared."""
    first_reads: FirstReads = field(repr=False)
    """Of the index: files are held against their digests at the first read of this process."""
    tokens: int
    """Tokens after expansion."""
    tiles: int
    frames: int
    supervised: int
    seconds: float
    settings: MediaSettings = field(repr=False)
    features: list[np.ndarray] = field(default_factory=list, repr=False)
    """Stored filterbank features of each clip, float16; empty when they are not stored."""
    states: list[tuple[int, int]] = field(default_factory=list)
    """For the state head: the place of each clip in ``ids``, and its class."""
    shards: ShardedMedia | None = field(default=None, repr=False)
    """Where the media are, if they were packed."""
    decoded: tuple[Path, int, np.ndarray] | None = field(default=None, repr=False)
    """The recording that the last chunk was cut out of, and its rate: the next is cut out of the
    same."""
    seed: int = 0
    """Of this visit; the loader sets it from the order's seed, the epoch and the sample."""

    @property
    def id(self) -> str:
        """Unique name within the corpus, ``vqa/train/17``."""
        return f"{self.dataset}/{self.split}/{self.index}"

    @property
    def name(self) -> str:
        """The id with the record's own, for messages."""
        return f"{self.id} ({printable(self.record_id)})"

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
        """Compact ids up to and with the open header of the last reply; the state mark is not in
        it."""
        return self.ids[: self.spans[-1][0]]

    def expanded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and labels with a media id at every position that media fill: (tokens,),
        (tokens,)."""
        return expand(self.ids, self.runs), expand_labels(self.ids, self.labels, self.runs)

    def expanded_states(self) -> np.ndarray:
        """Return (tokens,) the class of each clip at its last position, IGNORE_INDEX elsewhere."""
        return expand_states(self.ids, self.states, self.runs)

    def position_ids(self) -> np.ndarray:
        """Return the rotary position of each of the ``expanded`` ids: (tokens,)."""
        return positions_of(expand(self.ids, self.runs), self.settings.data.shared_position_stride)

    def tile_tokens(self) -> list[int] | None:
        """Return the tokens of each tile, in the order of the placeholders; None where none is
        pooled or merged."""
        video, tile = self.settings.data.video, self.settings.tile_tokens
        if not video.slowfast and not tile.are_merged:
            return None
        images = sum(self.image_tiles)
        return image_tokens(images, tile) + video_tokens(self.tiles - images, tile, video)

    def load_pixels(self) -> np.ndarray:
        """Return tiles and frames as (N, S, S, 3) uint8, in the order of the placeholders.

        Raises:
            DataError: a file cannot be decoded any more, or has changed since the data was
                prepared.
        """
        from vita_train.data.media import MediaError
        from vita_train.data.media.image import cut_tiles, open_image
        from vita_train.data.media.video import load_frames

        data, side = self.settings.data, self.settings.vision.tile_size
        images = len(self.images)
        try:
            with self.local_pixels() as files:
                parts = [
                    cut_tiles(open_image(path), data.image, side, tiled=tiled)
                    for path, tiled in zip(files[:images], self.image_tiled, strict=True)
                ]
                parts += [
                    load_frames(
                        path, self.video_frame_indices, data, side, tiled=tiled, seed=self.seed
                    )
                    for path, tiled in zip(files[images:], self.video_tiled, strict=True)
                ]
        except MediaError as error:
            raise DataError(
                error.detail, code="VT-DATA-009", where=self.name, remedy=REMEDY
            ) from error
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
            DataError: the file cannot be decoded any more, or has changed since the data was
                prepared.
        """
        from vita_train.data.media import MediaError
        from vita_train.data.media.audio import load_wave

        spec = self.settings.data.audio
        rate, cut = rate or spec.sample_rate, self.audio_cuts[clip]
        if cut and self.decoded and self.decoded[:2] == (self.audios[clip], rate):
            wave = self.decoded[2]
        else:
            try:
                with self._local_audio(clip) as file:
                    wave = load_wave(
                        file,
                        rate,
                        max_seconds=spec.max_seconds,
                        channel=spec.channel,
                        resampling=spec.resampling,
                    )
            except MediaError as error:
                raise DataError(
                    error.detail, code="VT-DATA-010", where=self.name, remedy=REMEDY
                ) from error
        if cut is None:
            return wave
        self.decoded = None if cut[1] >= len(wave) else (self.audios[clip], rate, wave)
        first, end = (edge * rate // spec.sample_rate for edge in cut)
        return wave[first:end]

    def load_fbank(self, clip: int = 0) -> Tensor:
        """Return the filterbank features of a clip, (frames, mel bins) float32.

        Raises:
            DataError: the file cannot be decoded any more, or has another length than when the data
                was prepared.
        """
        import torch

        from vita_train.data.media.audio import fbank

        if self.features:
            return torch.from_numpy(self.features[clip].astype(np.float32))
        rate = self.settings.data.audio.sample_rate
        features = fbank(self.load_wave(clip), rate, self.settings.mel_bins)
        self._unchanged(len(features), self.audio_frames[clip], "audio frames")
        return features

    def pull(self) -> None:
        """Begin to bring media that lie in shards to this node."""
        if self.shards is not None:
            wanted = len(self.media_digests) - (len(self.audios) if self.features else 0)
            self.shards.pull(self.media_digests[:wanted])

    @contextmanager
    def local_pixels(self) -> Iterator[list[Path]]:
        """Give local files of images, then of videos, for as long as the block lasts.

        Raises:
            DataError: one is not what was prepared.
            MediaError: one cannot be read.
        """
        visual = [*self.images, *self.videos]
        digests = self.media_digests[: len(visual)]
        if self.shards is not None:
            with self.shards.files(digests, visual) as taken:
                yield taken
            return
        files: list[tuple[Kind, Path]] = [("image", path) for path in self.images]
        files += [("video", path) for path in self.videos]
        self._check_files(FirstReads.PIXELS, files, digests)
        yield visual

    @contextmanager
    def _local_audio(self, clip: int) -> Iterator[Path]:
        """Give the local file of a clip, as `local_pixels` does."""
        digests = self.media_digests[len(self.images) + len(self.videos) :]
        if self.shards is not None:
            with self.shards.files([digests[clip]], [self.audios[clip]]) as (file,):
                yield file
            return
        self._check_files(FirstReads.AUDIO, [("audio", path) for path in self.audios], digests)
        yield self.audios[clip]

    def _check_files(
        self, which: int, files: list[tuple[Kind, Path]], digests: list[bytes]
    ) -> None:
        """Hold files against what was prepared, at the first read of this process.

        Raises:
            DataError: one has changed.
            MediaError: one cannot be read.
        """
        if self.first_reads.has(self.index, which):
            return
        from vita_train.data.media.door import content_digest

        for (kind, path), digest in zip(files, digests, strict=True):
            if content_digest(path, kind) != digest:
                raise DataError(
                    f"{kind} {path} has changed since the data was prepared",
                    code="VT-DATA-072",
                    where=self.name,
                    remedy=f"put the file back as it was, or {REMEDY} (--only prepare --force)",
                )
        self.first_reads.add(self.index, which)

    def _unchanged(self, found: int, prepared: int, what: str) -> None:
        if found != prepared:
            raise DataError(
                f"has {found} {what} but had {prepared} when the data was prepared",
                code="VT-DATA-011",
                where=self.name,
                remedy=REMEDY,
            )
