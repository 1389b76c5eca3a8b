"""Media files from their descriptions, in blocks of one process each.

A block is a fixed list of files rendered by a fresh process, so the bytes depend neither on how
many processes run beside each other nor on what was rendered before (see ``espeak`` for why that
matters). Blocks run as ``python -m vita_train.data.sources.synth.render`` with the description on
standard input.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter

from vita_train.console import progress
from vita_train.data.sources.synth.images import Look, encode_jpeg, paint_scene
from vita_train.data.sources.synth.scenes import Scene
from vita_train.data.sources.synth.splits import rng_for
from vita_train.data.sources.synth.videos import Video, encode_video
from vita_train.data.sources.synth.voices import SAMPLE_RATE, Voice, speak
from vita_train.ended import last_words
from vita_train.errors import EXIT_REFUSED, UserError, VitaError

_MODULE = "vita_train.data.sources.synth.render"
_CLIPS_PER_BLOCK = 700
_IMAGES_PER_BLOCK = 2000


@dataclass(frozen=True)
class ImageFile:
    """A JPEG of a scene; ``path`` is below the media folder and seeds the chance details."""

    path: str
    scene: Scene


@dataclass(frozen=True)
class VideoFile:
    """An MP4 of a video."""

    path: str
    video: Video


@dataclass(frozen=True)
class Clip:
    """A WAV: words by a voice, or an audio clip without words."""

    path: str
    text: str
    """Spoken words; empty for an audio clip."""
    voice: Voice | None = None
    effect: str = ""
    """Empty, ``radio``, or one of ``sounds.NOISES``."""


Job = TypeVar("Job", ImageFile, VideoFile, Clip)


@dataclass(frozen=True)
class Block:
    """Work of one process."""

    root: str
    """Media folder."""
    seed: int
    images: tuple[ImageFile, ...] = ()
    videos: tuple[VideoFile, ...] = ()
    clips: tuple[Clip, ...] = ()

    def __len__(self) -> int:
        return len(self.images) + len(self.videos) + len(self.clips)


def render(
    root: Path,
    seed: int,
    images: Sequence[ImageFile],
    videos: Sequence[VideoFile],
    clips: Sequence[Clip],
    *,
    workers: int,
) -> None:
    """Write all media files below ``root``.

    Raises:
        UserError: a file cannot be written, or the synthesiser is missing.
        VitaError: a rendering process died.
    """
    jobs: list[ImageFile | VideoFile | Clip] = [*images, *videos, *clips]
    for folder in sorted({(root / job.path).parent for job in jobs}):
        folder.mkdir(parents=True, exist_ok=True)
    blocks = [Block(str(root), seed, clips=tuple(part)) for part in _cut(clips, _CLIPS_PER_BLOCK)]
    blocks += [
        Block(str(root), seed, images=tuple(part)) for part in _cut(images, _IMAGES_PER_BLOCK)
    ]
    blocks += [
        Block(str(root), seed, videos=tuple(part)) for part in _cut(videos, _IMAGES_PER_BLOCK)
    ]
    with ThreadPoolExecutor(workers) as pool:
        started = [pool.submit(_run_block, block) for block in blocks]
        try:
            for future in progress(
                as_completed(started), len(started), "rendering images and speech"
            ):
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def render_block(block: Block) -> None:
    """Write the files of one block; call it in a fresh process only."""
    root = Path(block.root)
    for image in block.images:
        look = Look.draw(rng_for(block.seed, "look", image.path), len(image.scene.things))
        (root / image.path).write_bytes(encode_jpeg(paint_scene(image.scene, look)))
    for video_file in block.videos:
        look = Look.draw(rng_for(block.seed, "look", video_file.path), 1)
        (root / video_file.path).write_bytes(encode_video(video_file.video, look))
    if block.clips:
        _render_clips(block, root)


def _render_clips(block: Block, root: Path) -> None:
    import soundfile

    from vita_train.data.sources.synth.espeak import Synthesiser
    from vita_train.data.sources.synth.noises import make_noise, through_radio

    synthesiser = Synthesiser()
    for clip in block.clips:
        rng = np.random.default_rng(rng_for(block.seed, "sound", clip.path).getrandbits(64))
        if clip.voice is None:
            wave = make_noise(clip.effect, rng)
        else:
            wave = speak(synthesiser, clip.text, clip.voice)
            if clip.effect == "radio":
                wave = through_radio(wave, rng)
        data = BytesIO()
        soundfile.write(
            data,
            np.round(wave * 32767).astype(np.int16),
            SAMPLE_RATE,
            subtype="PCM_16",
            format="WAV",
        )
        (root / clip.path).write_bytes(data.getvalue())


def _run_block(block: Block) -> None:
    result = subprocess.run(
        [sys.executable, "-m", _MODULE],
        input=TypeAdapter(Block).dump_json(block),
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if result.returncode == 0:
        return
    reason = last_words(result.returncode, result.stderr.decode(errors="replace"))
    if result.returncode == EXIT_REFUSED:
        raise UserError(reason, code="VT-USE-041")
    raise VitaError(
        f"rendering images and speech failed: {reason}",
        code="VT-FAIL-002",
        where=block.root,
        remedy="run the command again",
    )


def _cut(items: Sequence[Job], size: int) -> list[Sequence[Job]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def main() -> int:
    """Render the block described on standard input; returns the exit code."""
    block = TypeAdapter(Block).validate_json(sys.stdin.buffer.read())
    try:
        render_block(block)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        print(
            f"{error.filename or block.root}: cannot write: {error.strerror} (make room, or choose "
            f"another folder)",
            file=sys.stderr,
        )
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
