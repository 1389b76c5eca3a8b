"""Videos to frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vita_train.data.media import MediaError
from vita_train.data.media.container import open_container, stated_seconds
from vita_train.data.media.door import decoding, find_file
from vita_train.data.media.image import choose_grid, count_tiles, cut_grid
from vita_train.data.media.whole import check_whole
from vita_train.recipe.data import FRAMES_OF_MOSAIC, DataSpec, VideoSpec
from vita_train.recipe.visual import tiled_frames, video_tiles

#: The most pixels of a frame: 8K.
MAX_FRAME_PIXELS = 8192 * 4352
#: How often a pixel may be wider than it is high, or the other way round.
_MAX_PIXEL_ASPECT = 16
#: The share of frames that the decoder may have had to guess parts of.
_MAX_CORRUPT = 0.1
#: The share of its stated length that a video must have, and the seconds that may be missing too:
#: the last frame's duration is seldom known.
_LEAST_OF_STATED, _SLACK_SECONDS = 0.95, 0.3
#: Streams that are no video: cover images of music, and previews of other streams.
_NO_VIDEO = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
#: How the corners of a display matrix (a, b, c, d as -1, 0 or 1) turn a stored frame into the one
#: that is shown.
_TURNS: dict[tuple[int, ...], Image.Transpose | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class VideoInfo(NamedTuple):
    """What decoding a video once tells."""

    frames: int
    rate: float
    """Native frames a second."""
    width: int
    """Pixels of the first frame as it is shown: turned upright, its pixels made square."""
    height: int
    times: tuple[float, ...] = ()
    """Where the rate is not constant: when each frame appears, in seconds from the first, and when
    the last ends."""


def frame_indices(total: int, native: float, spec: VideoSpec) -> list[int]:
    """Return which frames are taken of a clip of ``total`` frames at ``native`` frames a second.

    One every ``native / spec.rate`` frames (at least one apart); more than ``max_frames`` are
    thinned evenly. Where that gives fewer than ``min_frames``, as many are spread evenly over the
    clip, repeated if it is shorter still; with ``short: published`` those few are repeated instead.
    """
    stride = max(1, round(native / spec.rate))
    indices = list(range(0, total, stride))
    if len(indices) < spec.min_frames and spec.short == "spread":
        return [int(index) for index in np.linspace(0, total - 1, _number(spec.min_frames, spec))]
    return [indices[index] for index in _even(len(indices), spec)]


def _even(number: int, spec: VideoSpec) -> NDArray[np.int_]:
    """Return which of ``number`` sampled moments are taken, evenly: from ``min_frames`` to
    ``max_frames``."""
    return np.linspace(0, number - 1, _number(number, spec)).astype(int)


def _number(sampled: int, spec: VideoSpec) -> int:
    """Return how many frames are taken where so many were sampled: within the bounds, and in whole
    fours for mosaics, rounded up as long as there is room."""
    wanted = min(max(sampled, spec.min_frames), spec.max_frames)
    if not spec.mosaic:
        return wanted
    fours = min(-(-wanted // FRAMES_OF_MOSAIC), spec.max_frames // FRAMES_OF_MOSAIC)
    return fours * FRAMES_OF_MOSAIC


#: How much further than the video the end of a record may lie: tables of segments round up.
_END_TOLERANCE = 1.0


def video_frame_indices(
    video: VideoInfo, spec: VideoSpec, start: float | None = None, end: float | None = None
) -> list[int]:
    """Return which frames of a video are taken: `frame_indices`, and by time where its rate is not
    constant.

    Args:
        video: the video.
        spec: how many frames are taken.
        start: second from which frames are taken; None is the beginning.
        end: second before which they are taken; None is the end.

    Raises:
        MediaError: the video ends before the seconds that are asked for.
    """
    if start is None and end is None:
        return _whole_indices(video, spec)
    seconds = video.times[-1] if video.times else video.frames / video.rate
    if (start or 0) >= seconds or (end is not None and end > seconds + _END_TOLERANCE):
        last = f"{end:g}" if end is not None else "its end"
        raise MediaError(
            "start and end", f"seconds {start or 0:g} to {last} of a video of {seconds:.2f} s"
        )
    low, high = start or 0.0, min(seconds, end if end is not None else seconds)
    if not video.times:
        first = min(int(low * video.rate), video.frames - 1)
        last_frame = max(first + 1, min(video.frames, round(high * video.rate)))
        part = video._replace(frames=last_frame - first)
        return [first + index for index in _whole_indices(part, spec)]
    starts = np.asarray(video.times[:-1])
    first = max(0, int(np.searchsorted(starts, low, side="right")) - 1)
    stop = max(first + 1, int(np.searchsorted(starts, high, side="left")))
    times = np.maximum(starts[first:stop] - low, 0).tolist()
    part = video._replace(frames=stop - first, times=(*times, high - low))
    return [first + index for index in _whole_indices(part, spec)]


def _whole_indices(video: VideoInfo, spec: VideoSpec) -> list[int]:
    """Return which frames are taken of all of a video.

    By time means: the frame on screen at each of evenly spaced moments, one every ``1 / spec.rate``
    seconds, thinned to ``max_frames``; where these are fewer than ``min_frames``, as many from the
    first frame to the last, or with ``short: published`` these repeated.
    """
    if not video.times:
        return frame_indices(video.frames, video.rate, spec)
    starts, end = np.asarray(video.times[:-1]), video.times[-1]
    count = max(1, int(np.ceil(end * spec.rate - 1e-6)))
    if count < spec.min_frames and spec.short == "spread":
        moments = np.linspace(0, starts[-1], _number(spec.min_frames, spec))
    else:
        moments = _even(count, spec) / spec.rate
    return [int(index) for index in np.searchsorted(starts, moments + 1e-6, side="right") - 1]


def count_video_tiles(
    video: VideoInfo, frames: int, data: DataSpec, side: int, *, tiled: bool = True
) -> int:
    """Return how many tiles ``frames`` frames of a video become."""
    if not tiled:
        return frames
    return video_tiles(frames, count_tiles(video.width, video.height, data.image, side), data.video)


def probe_video(path: Path) -> VideoInfo:
    """Decode a video once; return how many frames of which size it has, and their rate.

    Raises:
        MediaError: missing, unreadable, truncated, without a video stream, or without frames.
    """
    with _opened(path) as video:
        width, height, end, corrupt = 0, 0, 0.0, 0
        times: list[float | None] = []
        for frame in video.frames():
            corrupt += frame.is_corrupt
            if not times:
                width, height = video.shown_size(frame)
            times.append(frame.time)
            end = (frame.time or 0.0) + float((frame.duration or 0) * (frame.time_base or 0))
        if not times:
            raise MediaError("empty video", f"video {path} has no frames")
        if corrupt > _MAX_CORRUPT * len(times):
            raise MediaError(
                "damaged video", f"{corrupt} of {len(times)} frames of {path} are damaged"
            )
        if end < video.stated * _LEAST_OF_STATED - _SLACK_SECONDS:
            raise MediaError(
                "truncated video", f"{path} holds {end:.2f} of {video.stated:.2f} s of video"
            )
        rate, uneven = _timing(times, video.rate, end)
        return VideoInfo(len(times), rate, width, height, uneven)


def load_frames(
    path: Path, indices: list[int], data: DataSpec, side: int, *, tiled: bool = True, seed: int = 0
) -> np.ndarray:
    """Return the frames at ``indices`` as (N, side, side, 3) uint8, tiled ones as their tiles, four
    with a mosaic of them before them where ``data.video`` has it.

    Args:
        indices: rising; a frame may be taken more than once.
        tiled: false keeps every frame whole, whatever ``data.video`` says.
        seed: draws which frames are tiled where the budget is too small for all.

    Raises:
        MediaError: the file cannot be decoded, or ends before the last place.
    """
    wanted, chosen, grid = set(indices), frozenset[int](), (1, 1)
    whole: dict[int, np.ndarray] = {}
    cut: dict[int, np.ndarray] = {}
    mosaics = _Mosaics(indices if tiled and data.video.mosaic else [], data, side)
    with _opened(path) as video:
        for index, frame in enumerate(video.frames()):
            if index == 0 and tiled and data.video.tile_frames:
                size = video.shown_size(frame)
                grid = choose_grid(*size, data.image.min_tiles, data.image.max_tiles, side)
                chosen = _draw_tiled(
                    len(indices), count_tiles(*size, data.image, side), data.video.tile_budget, seed
                )
            if index in wanted:
                image = video.shown(frame)
                whole[index] = cut_grid(image, (1, 1), data.image, side)
                mosaics.add(index, image)
                if any(indices[number] == index for number in chosen):
                    cut[index] = cut_grid(image, grid, data.image, side)
            if index >= indices[-1]:
                break
    if len(whole) < len(wanted):
        raise MediaError("truncated video", f"video {path} ends before frame {indices[-1]}")
    tiles = [
        cut[index] if number in chosen else whole[index] for number, index in enumerate(indices)
    ]
    for number in reversed(range(len(mosaics.made))):
        tiles.insert(number * FRAMES_OF_MOSAIC, mosaics.made[number])
    return np.concatenate(tiles)


class _Mosaics:
    """Four frames in one picture, two by two, row by row (VITA-1.5, ``frameCat``)."""

    def __init__(self, indices: Sequence[int], data: DataSpec, side: int) -> None:
        fours = range(0, len(indices), FRAMES_OF_MOSAIC)
        self._left = [list(indices[first : first + FRAMES_OF_MOSAIC]) for first in fours]
        self._data, self._side = data, side
        self._held: dict[int, Image.Image] = {}
        self.made: list[np.ndarray] = []
        """(1, side, side, 3) of each four, in order."""

    def add(self, index: int, image: Image.Image) -> None:
        """Take the next frame; no more than those of one four are held."""
        self._held[index] = image
        while self._left and all(number in self._held for number in self._left[0]):
            four = [self._held[number] for number in self._left.pop(0)]
            width, height = four[0].size
            whole = Image.new(four[0].mode, (2 * width, 2 * height))
            for place, part in enumerate(four):
                whole.paste(part, (place % 2 * width, place // 2 * height))
            self.made.append(cut_grid(whole, (1, 1), self._data.image, self._side)[:1])
            kept = set(self._left[0]) if self._left else set()
            self._held = {number: held for number, held in self._held.items() if number in kept}


def _draw_tiled(frames: int, tiles: int, budget: int, seed: int) -> frozenset[int]:
    """Return which of a video's frames are tiled, a tiled one becoming ``tiles`` tiles."""
    count = tiled_frames(frames, tiles, budget)
    return frozenset(np.random.default_rng(seed).permutation(frames)[:count].tolist())


def _timing(
    stamps: Sequence[float | None], stated: float, end: float
) -> tuple[float, tuple[float, ...]]:
    """Return the frames' rate, and where it is not constant their times and the end, in seconds
    from the first.

    Args:
        stamps: of each frame, in seconds.
        stated: frames a second that the container tells; 0 if it tells none.
        end: when the last frame ends.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps) or len(known) < 2:
        return stated or 1.0, ()
    times = np.asarray(known) - known[0]
    if (np.diff(times) < 0).any() or times[
        -1
    ] <= 0:  # stamps that say nothing: they begin again, or stand still
        return stated or 1.0, ()
    measured = (len(times) - 1) / float(times[-1])
    for rate in (stated, measured):
        if np.abs(times * rate - np.arange(len(times))).max() < 0.5:
            return rate, ()
    last = end - known[0] - float(times[-1])
    return measured, (*times.tolist(), float(times[-1]) + (last if last > 0 else 1 / measured))


class _Video:
    """The video stream of an open container."""

    def __init__(self, path: Path, container: av.container.InputContainer) -> None:
        videos = [
            stream for stream in container.streams.video if not stream.disposition & _NO_VIDEO
        ]
        if not videos:
            cover = " but a cover image" if container.streams.video else ""
            raise MediaError("unreadable video", f"{path} has no video stream{cover}")
        self.path, self._container, self._stream = path, container, videos[0]
        self._stream.codec_context.thread_count = 1  # each thread more would hold frames of its own
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = float(rate) if rate else 0.0
        self.stated = stated_seconds(container, self._stream)
        aspect = self._stream.sample_aspect_ratio
        self._aspect = aspect if aspect else Fraction(1)
        if not Fraction(1, _MAX_PIXEL_ASPECT) <= self._aspect <= _MAX_PIXEL_ASPECT:
            raise MediaError(
                "unreadable video",
                f"{path} says that its pixels are {self._aspect} as wide as high",
            )
        self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decode every frame, in the order they are shown."""
        for frame in self._container.decode(self._stream):
            assert isinstance(frame, av.VideoFrame)
            self._check_size(frame.width, frame.height)
            yield frame

    def shown_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Return width and height of a frame as it is shown."""
        width, height = self._square(frame.width, frame.height)
        return (height, width) if self._turn(frame) in _SIDEWAYS else (width, height)

    def shown(self, frame: av.VideoFrame) -> Image.Image:
        """Return a frame as it is shown: its pixels made square, turned upright."""
        image, turn = frame.to_image(), self._turn(frame)
        size = self._square(*image.size)
        image = image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
        return image if turn is None else image.transpose(turn)

    def _square(self, width: int, height: int) -> tuple[int, int]:
        """Width and height with square pixels; the shorter side is stretched, so that nothing is
        lost."""
        if self._aspect >= 1:
            return round(width * self._aspect), height
        return width, round(height / self._aspect)

    def _turn(self, frame: av.VideoFrame) -> Image.Transpose | None:
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return None
        values = np.frombuffer(cast(bytes, matrix), np.int32)  # rows a b u, c d v, x y w
        corners = values[[0, 1, 3, 4]].reshape(2, 2).astype(float)
        corners /= np.maximum(
            np.linalg.norm(corners, axis=1, keepdims=True), 1
        )  # a scale is in the pixels' aspect
        turns = tuple(int(value) for value in np.rint(corners).ravel())
        if turns not in _TURNS or np.abs(corners - np.rint(corners)).max() > 0.02:
            raise MediaError(
                "unreadable video",
                f"{self.path} is to be shown at an angle that is no quarter turn",
            )
        return _TURNS[turns]

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_FRAME_PIXELS:
            raise MediaError(
                "too large",
                f"{self.path} has frames of {width} x {height} pixels, the most is "
                f"{MAX_FRAME_PIXELS}",
            )


_SIDEWAYS = (
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)


@contextmanager
def _opened(path: Path) -> Iterator[_Video]:
    """Open a video; decoding faults inside become MediaError."""
    path = find_file(path, "video")
    with decoding(path, "video"), open_container(path) as container:
        check_whole(path, "video")
        yield _Video(path, container)
