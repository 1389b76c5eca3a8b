"""Endings of media files' names, by which folders are searched; what is in a file, decoders say."""

from __future__ import annotations

from pathlib import Path

from vita_train.data.media.door import Kind

#: In lower case, and in the order in which they are taken where several files have the same stem.
ENDINGS: dict[Kind, tuple[str, ...]] = {
    "image": (
        *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"),
        *(".ppm", ".tga", ".qoi"),
    ),
    "audio": (
        *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".wma", ".aiff", ".aif"),
        *(".au", ".amr"),
    ),
    "video": (".mp4", ".webm", ".mkv", ".avi", ".mov"),
}
_KIND: dict[str, Kind] = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}


def media_kind(name: str | Path) -> Kind | None:
    """Return what a file is by its ending; None for one that is no medium."""
    return _KIND.get(Path(name).suffix.lower())
