"""Containers of audio and video, opened through FFmpeg: the file alone, and only in formats that we
mean to read."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Stream

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


#: Demuxers that take a duration from the file's header; the others estimate it from what is there.
_STATED = ("asf", "avi", "flv", "matroska,webm")


def stated_seconds(container: InputContainer, stream: Stream) -> float:
    """Return how long a stream lasts as its file says; 0 where it says nothing of it.

    What is said of the whole holds for its only stream.
    """
    if container.format.name not in _STATED:
        return 0.0
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    streams = len(container.streams.video) + len(container.streams.audio)
    return (container.duration or 0) / av.time_base if streams == 1 else 0.0
