"""Folders of media made uniform: images of a size as JPEG or PNG, audio as mono WAV of a rate."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from vita_train.data.media import MediaError
from vita_train.data.media.audio import load_wave
from vita_train.data.media.image import open_image
from vita_train.errors import UserError

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".wma"}


def preprocess_images(
    folder: Path, out: Path, size: int, *, enlarge: bool = False
) -> Iterator[tuple[Path, MediaError | None]]:
    """Write every image below a folder with its shorter side ``size``, upright, in RGB, under the
    same name; yield each with what was wrong.

    An image that is smaller stays so unless ``enlarge``; one that is written already is left alone.
    """
    for path, target in _pairs(folder, out, IMAGES):
        try:
            if not _is_done(path, target):
                image = open_image(path)
                scale = size / min(image.size)
                if scale < 1 or enlarge:
                    shape = tuple(max(1, round(side * scale)) for side in image.size)
                    image = image.resize((shape[0], shape[1]), Image.Resampling.BICUBIC)
                data = io.BytesIO()
                kind = "PNG" if target.suffix.lower() == ".png" else "JPEG"
                image.save(data, kind, **({"quality": 95} if kind == "JPEG" else {}))
                _write(target, data.getvalue())
            yield path, None
        except MediaError as error:
            yield path, error


def preprocess_audio(
    folder: Path, out: Path, rate: int
) -> Iterator[tuple[Path, MediaError | None]]:
    """Write every recording below a folder as mono WAV of ``rate``, 16 bits, under its name with
    the ending ``.wav``; yield each with what was wrong."""
    taken: dict[Path, Path] = {}
    for path, same in _pairs(folder, out, AUDIO):
        target = same.with_suffix(".wav")
        try:
            if taken.setdefault(target, path) != path:
                raise MediaError("same name", f"{path}: {taken[target]} becomes {target} too")
            if not _is_done(path, target):
                wave = load_wave(path, rate)
                data = io.BytesIO()
                samples = np.round(wave.clip(-1, 1) * 32767).astype(np.int16)
                soundfile.write(data, samples, rate, subtype="PCM_16", format="WAV")
                _write(target, data.getvalue())
            yield path, None
        except MediaError as error:
            yield path, error


def _pairs(folder: Path, out: Path, endings: set[str]) -> Iterator[tuple[Path, Path]]:
    if not folder.is_dir():
        raise UserError(
            "is not a folder",
            code="VT-USE-174",
            where=str(folder),
            remedy="give the folder of the media",
        )
    real = folder.resolve()
    if real == out.resolve() or real in out.resolve().parents:
        raise UserError(
            "would be written into the folder that is read",
            code="VT-USE-175",
            where=str(out),
            remedy="give a folder outside it: originals stay as they are",
        )
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.suffix.lower() in endings:
                yield path, out / path.relative_to(folder)


def _is_done(path: Path, target: Path) -> bool:
    try:
        return target.stat().st_mtime_ns >= path.stat().st_mtime_ns
    except OSError:
        return False


def _write(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(data)
    part.replace(target)
