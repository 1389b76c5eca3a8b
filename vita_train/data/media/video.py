"""Videos to frames."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from vita_train.data.media import MediaError
from vita_train.data.media.image import choose_grid, count_tiles, cut_grid
from vita_train.recipe.data import DataSpec, VideoSpec
from vita_train.recipe.visual import tiled_frames, video_tiles


class Film(NamedTuple):
    """What decoding a video once tells."""

    frames: int
    rate: float
    """Native frames a second."""
    width: int
    """Pixels of the first frame."""
    height: int


def frame_places(total: int, native: float, spec: VideoSpec) -> list[int]:
    """Return which frames are taken of a clip of ``total`` frames at ``native`` frames a second.

    One every ``native / spec.rate`` frames (at least one apart); more than ``max_frames`` are thinned evenly. Where
    that gives fewer than ``min_frames``, as many are spread evenly over the clip, repeated if it is shorter still.
    """
    stride = max(1, round(native / spec.rate))
    places = list(range(0, total, stride))
    if len(places) > spec.max_frames:
        return [places[place] for place in np.linspace(0, len(places) - 1, spec.max_frames).astype(int)]
    if len(places) < spec.min_frames:
        return [int(place) for place in np.linspace(0, total - 1, spec.min_frames)]
    return places


def count_film_tiles(film: Film, frames: int, data: DataSpec, side: int, *, tiled: bool = True) -> int:
    """Return how many tiles ``frames`` frames of a video become."""
    if not tiled:
        return frames
    return video_tiles(frames, count_tiles(film.width, film.height, data.image, side), data.video)


def probe_video(path: Path) -> Film:
    """Decode a video once; return how many frames of which size it has, and their rate.

    Raises:
        MediaError: missing, unreadable, without a video stream, or without frames.
    """
    with _Opened(path) as stream:
        total, width, height = 0, 0, 0
        for frame in stream.container.decode(stream.video):
            if total == 0:
                width, height = frame.width, frame.height
            total += 1
        if total == 0:
            raise MediaError("empty video", f"video {path} has no frames")
        return Film(total, stream.rate, width, height)


def load_frames(path: Path, places: list[int], data: DataSpec, side: int, *, tiled: bool = True,
                seed: int = 0) -> np.ndarray:
    """Return the frames at ``places`` as (N, side, side, 3) uint8, tiled ones as their tiles.

    Args:
        places: rising; a frame may be taken more than once.
        tiled: false keeps every frame whole, whatever ``data.video`` says.
        seed: draws which frames are tiled where the budget is too small for all.

    Raises:
        MediaError: the file cannot be decoded, or ends before the last place.
    """
    wanted, chosen, grid = set(places), frozenset[int](), (1, 1)
    whole: dict[int, np.ndarray] = {}
    cut: dict[int, np.ndarray] = {}
    with _Opened(path) as stream:
        for place, frame in enumerate(stream.container.decode(stream.video)):
            if place == 0 and tiled and data.video.tile_frames:
                size = (frame.width, frame.height)
                grid = choose_grid(*size, data.image.min_tiles, data.image.max_tiles, side)
                chosen = _draw_tiled(len(places), count_tiles(*size, data.image, side), data.video.tile_budget, seed)
            if place in wanted:
                image = frame.to_image()
                whole[place] = cut_grid(image, (1, 1), data.image, side)
                if any(places[number] == place for number in chosen):
                    cut[place] = cut_grid(image, grid, data.image, side)
            if place >= places[-1]:
                break
    if len(whole) < len(wanted):
        raise MediaError("truncated video", f"video {path} ends before frame {places[-1]}")
    return np.concatenate([cut[place] if number in chosen else whole[place] for number, place in enumerate(places)])


def _draw_tiled(frames: int, tiles: int, budget: int, seed: int) -> frozenset[int]:
    """Return which of a video's frames are tiled, a tiled one becoming ``tiles`` tiles."""
    count = tiled_frames(frames, tiles, budget)
    return frozenset(np.random.default_rng(seed).permutation(frames)[:count].tolist())


class _Opened:
    """An open video whose decoding faults become MediaError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Opened:
        try:
            if self.path.stat().st_size == 0:
                raise MediaError("empty file", f"video {self.path} is empty")
            self.container = av.open(str(self.path), mode="r")
        except FileNotFoundError:
            raise MediaError("missing file", f"video {self.path} does not exist") from None
        except (av.FFmpegError, OSError) as error:
            raise MediaError("unreadable video", f"{self.path}: {error}") from None
        if not self.container.streams.video:
            self.container.close()
            raise MediaError("unreadable video", f"{self.path} has no video stream")
        self.video = self.container.streams.video[0]
        rate = self.video.average_rate or self.video.guessed_rate
        self.rate = float(rate) if rate else 1.0
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.container.close()
        if isinstance(error, (av.FFmpegError, OSError)):
            raise MediaError("unreadable video", f"{self.path}: {error}") from None
