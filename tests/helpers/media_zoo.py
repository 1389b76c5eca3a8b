"""A small whole file of every format that is read, and what time and bad luck make of files."""

from __future__ import annotations

import random
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

PICTURES = ("avif", "bmp", "gif", "ico", "jp2", "jpg", "png", "ppm", "qoi", "tga", "tif", "webp")
#: libsndfile's formats, and FFmpeg's with their codecs.
SOUNDS = {
    "wav": "",
    "flac": "",
    "ogg": "",
    "opus": "",
    "mp3": "",
    "aiff": "",
    "w64": "",
    "au": "",
    "caf": "",
    "m4a": "aac",
    "aac": "aac",
    "mka": "libopus",
    "wma": "wmav2",
}
VIDEOS = {
    "mp4": "libx264",
    "mov": "mpeg4",
    "mkv": "libx264",
    "webm": "libvpx",
    "avi": "mpeg4",
    "ts": "libx264",
    "mpg": "mpeg2video",
    "flv": "flv1",
    "wmv": "wmv2",
    "ogv": "libvpx",
    "gif": "gif",
}
_CORNERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 250))


def corners(width: int = 48, height: int = 32) -> np.ndarray:
    """An image (height, width, 3) uint8: red and green above, blue and white below."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for place, colour in enumerate(_CORNERS):
        row, column = divmod(place, 2)
        pixels[
            row * height // 2 : (row + 1) * height // 2,
            column * width // 2 : (column + 1) * width // 2,
        ] = colour
    return pixels


def tone(seconds: float = 1.0, rate: int = 16000) -> np.ndarray:
    """A tone of changing pitch (samples,) float32, peak 0.3."""
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 + 200 * time) * time)).astype(np.float32)


def write_audio(path: Path, wave: np.ndarray, rate: int = 16000) -> Path:
    """Write a wave in the format and codec of the file's suffix."""
    codec = SOUNDS[path.suffix[1:]]
    if not codec:
        kind = {"aiff": "AIFF", "au": "AU", "caf": "CAF", "w64": "W64"}.get(path.suffix[1:])
        opus = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
        soundfile.write(path, wave, rate, **({"format": kind} if kind else opus))
        return path
    rate = 48000 if codec == "libopus" else rate
    wave = np.repeat(wave, 3) if rate == 48000 else wave
    with av.open(str(path), "w", format="matroska" if path.suffix == ".mka" else None) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.rate = rate
        resampler = av.AudioResampler(
            stream.codec_context.format,
            "mono",
            rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def write_video(
    path: Path,
    times: list[Fraction],
    *,
    rotation: int = 0,
    aspect: Fraction | None = None,
    pictures: list[np.ndarray] | None = None,
) -> Path:
    """Write frames at given times, in seconds; without images each shows the corners."""
    pictures = pictures or [corners()] * len(times)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(VIDEOS[path.suffix[1:]], rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.sample_aspect_ratio = aspect
        for time, pixels in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 25), round(time * 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def steady(frames: int, rate: int = 5) -> list[Fraction]:
    """Times of frames at a constant rate."""
    return [Fraction(number, rate) for number in range(frames)]


def zoo(at: Path) -> dict[str, list[Path]]:
    """Write a file of every format; returns them by kind."""
    at.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(corners())
    pictures = [at / f"p.{suffix}" for suffix in PICTURES]
    for path in pictures:
        image.save(path)
    modes = {
        "palette": image.quantize(16),
        "alpha": image.convert("RGBA"),
        "cmyk": image.convert("CMYK"),
        "float": Image.fromarray(np.linspace(0, 1, 1536, dtype=np.float32).reshape(32, 48)),
        "deep": Image.fromarray(np.linspace(0, 65535, 1536).astype(np.uint16).reshape(32, 48)),
    }
    for name, of in modes.items():
        pictures.append(at / f"{name}.{'png' if name in ('palette', 'alpha', 'deep') else 'tif'}")
        of.save(pictures[-1])
    sounds = [write_audio(at / f"s.{suffix}", tone()) for suffix in SOUNDS]
    videos = [write_video(at / f"v.{suffix}", steady(5)) for suffix in VIDEOS]
    return {"image": pictures, "audio": sounds, "video": videos}


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Damage the bytes of a file: cut, flipped, overwritten, spliced, or lying about a number."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place, length = chance.randrange(len(data)), chance.choice((1, 4, 16, 200))
        head = chance.randrange(min(len(data), 200))
        how = chance.randrange(7)
        if how == 0:
            del data[max(1, place) :]
        elif how == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif how == 2:
            data[head] = chance.randrange(256)
        elif how == 3:
            data[head : head + 4] = struct.pack(
                chance.choice("<>") + "I",
                chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, chance.getrandbits(32))),
            )[: len(data) - head]
        elif how == 4:
            data[place : place + length] = bytes(len(data[place : place + length]))
        elif how == 5:
            del data[place : place + length]
        else:
            data[place:place] = chance.randbytes(length)
        if not data:
            return b"\0"
    return bytes(data)
