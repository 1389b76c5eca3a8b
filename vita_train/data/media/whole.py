"""Files cut short, found by what their containers say of their length; nothing is decoded.

What each format tells:

==============================
========================================================================
WAV, RF64, AIFF, W64, AU, CAF   the length of the samples in bytes
AVI, WebM and Matroska, ASF     the length of the whole, unless it was written to a pipe
MP4 and its kind                the length of each part
Ogg (Vorbis, Opus, FLAC)        a mark on the last page
FLV, GIF, MPEG-TS               how the last piece must end
MP3                             the bytes that a Xing, Info or VBRI header states
FLAC                            the number of samples (compared when it is decoded)
AAC (ADTS), MPEG-PS, AMR, MP3   nothing: a cut file looks like a shorter one, and is taken for it
without such a header
==============================
========================================================================
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vita_train.data.media import MediaError
from vita_train.data.media.door import Kind

#: Pieces of a file that are looked at; more are no sign of a sane file, and the check is given up.
_MAX_PIECES = 100_000
#: Parts of an MP4 file whose end may be missing without harm.
_IDLE_BOXES = (b"free", b"skip", b"wide", b"uuid", b"udta")
_OGG_PAGE = 27 + 255 + 255 * 255
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


def check_whole(path: Path, kind: Kind) -> None:
    """Refuse a file that ends before its container says it does. Formats that cannot tell pass.

    Raises:
        MediaError: "truncated ...", with what is missing.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(64)
        for magic, check in _CHECKS:
            if magic.match(head):
                stream.seek(0)
                try:
                    fault = check(stream, size)
                except struct.error:
                    fault = "ends inside its header"
                if fault:
                    raise MediaError(f"truncated {kind}", f"{path} {fault}")
                return


def is_unknown(length: int, bits: int = 32) -> bool:
    """Whether a length in a header says "not known": what writers to a pipe leave there, who cannot
    seek back.

    0 and all ones (FFmpeg), 0x7FFFF000 (SoX, WAV), 0x7F000000 (SoX, AIFF), half of the range; each
    with the length of a header more or less.
    """
    top = 1 << bits
    near = (top - 1, top // 2, 0x7FFFF000, 0x7F000000) if bits == 32 else (top - 1, top // 2)
    return length == 0 or any(abs(length - value) <= 256 for value in near)


def _missing(needed: int, size: int) -> str:
    return f"holds {size} of {needed} bytes" if needed > size else ""


def _riff(stream: BinaryIO, size: int) -> str:
    """WAV, RF64 and AVI."""
    _, length, form = struct.unpack("<4sI4s", stream.read(12))
    if form == b"WAVE":
        return _wave(stream, size)
    return "" if is_unknown(length) else _missing(8 + length, size)


def _wave(stream: BinaryIO, size: int) -> str:
    place, wide = 12, 0
    while place + 8 <= size:
        stream.seek(place)
        name, length = struct.unpack("<4sI", stream.read(8))
        if name == b"ds64":
            wide = struct.unpack("<QQ", stream.read(16))[1]
        if name == b"data":
            if wide and length == 0xFFFFFFFF:
                length = wide
            elif is_unknown(length):
                return ""
            return _audio_missing(length, size - place - 8)
        place += 8 + length + length % 2
    return "ends before its samples"


def _audio_missing(length: int, there: int) -> str:
    return f"holds {there} of {length} bytes of audio" if length > there else ""


def _aiff(stream: BinaryIO, size: int) -> str:
    place = 12
    while place + 8 <= size:
        stream.seek(place)
        name, length = struct.unpack(">4sI", stream.read(8))
        if name == b"SSND":
            return "" if is_unknown(length) else _audio_missing(length, size - place - 8)
        place += 8 + length + length % 2
    return "ends before its samples"


def _w64(stream: BinaryIO, size: int) -> str:
    place = 40
    while place + 24 <= size:
        stream.seek(place)
        name, length = struct.unpack("<16sQ", stream.read(24))
        if name == _W64_DATA:
            return (
                ""
                if is_unknown(length, 64) or length == 24
                else _audio_missing(length - 24, size - place - 24)
            )
        if length < 24:
            return ""
        place += (length + 7) // 8 * 8
    return "ends before its samples"


def _au(stream: BinaryIO, size: int) -> str:
    order = ">" if stream.read(4) == b".snd" else "<"
    start, length = struct.unpack(f"{order}II", stream.read(8))
    return "" if is_unknown(length) else _audio_missing(length, size - start)


def _caf(stream: BinaryIO, size: int) -> str:
    place = 8
    while place + 12 <= size:
        stream.seek(place)
        name, length = struct.unpack(">4sq", stream.read(12))
        if length < 0:  # the last chunk, as long as the file
            return ""
        if name == b"data" and length > size - place - 12:
            return _audio_missing(length, size - place - 12)
        place += 12 + length
    return ""


def _boxes(stream: BinaryIO, size: int) -> str:
    """MP4, MOV, M4A, 3GP: boxes one after the other."""
    place = 0
    for _ in range(_MAX_PIECES):
        if place + 8 > size:
            return ""
        stream.seek(place)
        length, name = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            length = struct.unpack(">Q", stream.read(8))[0]
        if (
            length == 0 or length < 8 or not name.strip().isalnum()
        ):  # up to the end, or no box: something was appended
            return ""
        if place + length > size:
            return "" if name in _IDLE_BOXES else _missing(place + length, size)
        place += length
    return ""


def _ebml(stream: BinaryIO, size: int) -> str:
    """WebM and Matroska: a header and one segment."""
    stream.seek(4)
    length, _ = _vint(stream)
    stream.seek(length, 1)
    name = stream.read(4)
    if len(name) < 4:
        return "ends inside its header"
    if name != b"\x18\x53\x80\x67":
        return ""
    length, unknown = _vint(stream)
    return "" if unknown else _missing(stream.tell() + length, size)


def _vint(stream: BinaryIO) -> tuple[int, bool]:
    """Read a variable-length integer of EBML (RFC 8794): its value, and whether it says "not
    known"."""
    first = stream.read(1)
    width = 9 - first[0].bit_length() if first and first[0] else 0
    rest = stream.read(max(width - 1, 0))
    if not width or len(rest) < width - 1:
        raise struct.error("no integer")
    value = int.from_bytes(first + rest) & ((1 << 7 * width) - 1)
    return value, value == (1 << 7 * width) - 1


def _ogg(stream: BinaryIO, size: int) -> str:
    start = max(0, size - 2 * _OGG_PAGE)
    stream.seek(start)
    tail = stream.read()
    place = tail.rfind(b"OggS")
    if place < 0 or len(tail) < place + 27:
        return "ends inside a page"
    flags, segments = tail[place + 5], tail[place + 26]
    table = tail[place + 27 : place + 27 + segments]
    if len(table) < segments or len(tail) < place + 27 + segments + sum(table):
        return "ends inside a page"
    return "" if flags & 4 else "ends before its last page"


def _mp3(stream: BinaryIO, size: int) -> str:
    """MPEG audio: the bytes that a Xing, Info (LAME) or VBRI (Fraunhofer) header in the first frame
    states."""
    place, head = 0, stream.read(10)
    if head[:3] == b"ID3":
        place = 10 + sum(
            (byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
        )
    stream.seek(place)
    frame = stream.read(256)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return ""
    if frame[36:40] == b"VBRI":
        stated = struct.unpack(">I", frame[46:50])[0]
    else:
        found = re.search(rb"Xing|Info", frame[:64])
        if not found:
            return ""
        flags = struct.unpack(">I", frame[found.end() : found.end() + 4])[0]
        if not flags & 2:
            return ""
        at = found.end() + 4 + (4 if flags & 1 else 0)
        stated = struct.unpack(">I", frame[at : at + 4])[0]
    # Writers count their own header in or not, and tags follow: a little less is no cut.
    return "" if stated <= (size - place) * 1.01 + 1024 else _missing(place + stated, size)


def _flv(stream: BinaryIO, size: int) -> str:
    """Every tag is followed by its own length."""
    stream.seek(-4, 2)
    length = struct.unpack(">I", stream.read(4))[0]
    if size < length + 17 or length < 11:
        return "ends inside a tag"
    stream.seek(size - 4 - length)
    tag = stream.read(4)
    whole = tag[0] & 0x1F in (8, 9, 18) and int.from_bytes(tag[1:]) == length - 11
    return "" if whole else "ends inside a tag"


def _asf(stream: BinaryIO, size: int) -> str:
    head = stream.read(16384)
    place = head.find(_ASF_PROPERTIES)
    if place < 0 or len(head) < place + 92:
        return ""
    stated, flags = (
        struct.unpack_from("<Q", head, place + 40)[0],
        struct.unpack_from("<I", head, place + 88)[0],
    )
    return "" if flags & 1 or is_unknown(stated, 64) else _missing(stated, size)


def _gif(stream: BinaryIO, size: int) -> str:
    stream.seek(max(0, size - 64))
    return "" if stream.read().rstrip(b"\0").endswith(b";") else "ends before its last frame"


def _transport(stream: BinaryIO, size: int) -> str:
    """MPEG-TS: packets of one size."""
    head = stream.read(204 * 4 + 4)
    for length, shift in ((188, 0), (192, 4), (204, 0)):
        if all(head[shift + length * k : shift + length * k + 1] == b"G" for k in range(4)):
            return "ends inside a packet" if size % length else ""
    return ""


_CHECKS: tuple[tuple[re.Pattern[bytes], Callable[[BinaryIO, int], str]], ...] = tuple(
    (re.compile(pattern, re.DOTALL), check)
    for pattern, check in (
        (rb"(RIFF|RF64|BW64)....(WAVE|AVI )", _riff),
        (rb"FORM....AIF[FC]", _aiff),
        (rb"riff\x2e\x91\xcf\x11", _w64),
        (rb"\.snd|dns\.", _au),
        (rb"caff\x00\x01", _caf),
        (rb"....(ftyp|moov|mdat|free|skip|wide|styp|moof|sidx|pnot)", _boxes),
        (rb"\x1a\x45\xdf\xa3", _ebml),
        (rb"OggS", _ogg),
        (rb"ID3|\xff[\xe0-\xff]", _mp3),
        (rb"FLV\x01", _flv),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _asf),
        (rb"GIF8[79]a", _gif),
        (rb"G|....G", _transport),
    )
)
