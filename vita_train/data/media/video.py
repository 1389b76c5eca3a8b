"""Videos to frames."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

from vita_train.data.media import MediaError
from vita_train.data.media.image import to_square
from vita_train.recipe.data import ImageSpec, VideoSpec


def frame_places(total: int, native: float, spec: VideoSpec) -> list[int]:
    """Return which frames are taken of a clip of ``total`` frames at ``native`` frames a second.

    One every ``native / spec.fps`` frames (at least one apart); more than ``max_frames`` are thinned evenly. Where
    that gives fewer than ``min_frames``, as many are spread evenly over the clip, repeated if it is shorter still.
    """
    stride = max(1, round(native / spec.fps))
    places = list(range(0, total, stride))
    if len(places) > spec.max_frames:
        return [places[place] for place in np.linspace(0, len(places) - 1, spec.max_frames).astype(int)]
    if len(places) < spec.min_frames:
        return [int(place) for place in np.linspace(0, total - 1, spec.min_frames)]
    return places


def probe_video(path: Path) -> tuple[int, float]:
    """Decode a video once; return its number of frames and its native rate.

    Raises:
        MediaError: missing, unreadable, without a video stream, or without frames.
    """
    with _Opened(path) as stream:
        total = sum(1 for _ in stream.container.decode(stream.video))
        if total == 0:
            raise MediaError("empty video", f"video {path} has no frames")
        return total, stream.rate


def load_frames(path: Path, places: list[int], spec: ImageSpec, side: int) -> np.ndarray:
    """Return the frames at ``places`` as (N, side, side, 3) uint8; frames are never tiled.

    Raises:
        MediaError: the file cannot be decoded, or ends before the last place.
    """
    wanted, frames = set(places), {}
    with _Opened(path) as stream:
        for place, frame in enumerate(stream.container.decode(stream.video)):
            if place in wanted:
                image: Image.Image = frame.to_image()
                frames[place] = np.asarray(to_square(image, side, spec.single_tile))
            if place >= places[-1]:
                break
    if len(frames) < len(wanted):
        raise MediaError("truncated video", f"video {path} ends before frame {places[-1]}")
    return np.stack([frames[place] for place in places])


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
