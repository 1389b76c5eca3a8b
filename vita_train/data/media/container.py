"""Containers of audio and video, opened through FFmpeg: the file alone, and only in formats that we
mean to read."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer

#: Demuxers that may be used, by FFmpeg's names. Playlists, concat scripts and lists of images
#: follow to other files and addresses; they are not among them.
_DEMUXERS = (
    "aac",
    "ac3",
    "aiff",
    "amr",
    "ape",
    "apng",
    "asf",
    "au",
    "avi",
    "caf",
    "dv",
    "eac3",
    "flac",
    "flv",
    "gif",
    "h264",
    "hevc",
    "ivf",
    "m4v",
    "matroska",
    "mov",
    "mp3",
    "mpeg",
    "mpegts",
    "mpegvideo",
    "mxf",
    "obu",
    "ogg",
    "tta",
    "voc",
    "w64",
    "wav",
    "wv",
    "yuv4mpegpipe",
)
_OPTIONS = {"format_whitelist": ",".join(_DEMUXERS), "protocol_whitelist": "file"}


def open_container(path: Path) -> InputContainer:
    """Open a file of audio or video; the caller closes it.

    Titles and other tags need not be in UTF-8.

    Raises:
        Exception: whatever PyAV raises, for `door.decoding` to turn into a `MediaError`.
    """
    return av.open(f"file:{path}", mode="r", options=dict(_OPTIONS), metadata_errors="replace")
