"""Files cut short, found by what their containers say of their length; nothing is decoded.

What each format tells:

==============================
========================================================================
WAV, RF64, AIFF, W64, AU, CAF   the length of the samples in bytes
AVI, WebM and Matroska, ASF     the length of the whole, unless it was written to a pipe; the
                                seconds of their only stream (compared when it is decoded)
MP4 and its kind, AVIF          the length of each part
PNG                             the length of each part, and a sum over it
Ogg (Vorbis, Opus, FLAC)        the length of each page, a sum over it, and a mark on the last
FLV, GIF, QOI, MPEG-TS, MPEG-PS how the last piece must end
MP3                             the bytes that a Xing, Info or VBRI header states
FLAC                            the number of samples (compared when it is decoded)
AAC (ADTS), AMR, MP3            nothing: a cut file looks like a shorter one, and is taken for it;
without such a header           so does MPEG-TS that was cut exactly between two packets
==============================
========================================================================

A download may be laid out at its full length before its bytes arrive, so that what is missing is
zeros. Compressed files do not end in thousands of these. Samples and pixels that are stored as they
are may: silence and black; there it cannot be told.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vita_train.data.media import MediaError
from vita_train.data.media.door import Kind

#: Pieces of a file that are looked at; more are no sign of a sane file, and the check is given up.
_MAX_PIECES = 100_000
#: Parts of an MP4 file whose end may be missing without harm.
_IDLE_BOXES = (b"free", b"skip", b"wide", b"uuid", b"udta")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
#: Each byte with its bits the other way round.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
#: So many zeros at the end of a compressed file are no part of it.
_HOLLOW = 4096
_MAX_TAIL = 1 << 20
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


def check_whole(path: Path, kind: Kind) -> None:
    """Refuse a file that ends before its container says it does. Formats that cannot tell pass.

    Raises:
        MediaError: "truncated ...", with what is missing.
        ValueError: parts of it are not what was written, for `door.decoding` to tell.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(64)
        for magic, check in _IMAGE_CHECKS if kind == "image" else _CHECKS:
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
    return ("" if is_unknown(length) else _missing(8 + length, size)) or _hollow(stream, size)


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
    place, name = 0, b""
    for _ in range(_MAX_PIECES):
        if place + 8 > size:
            return _hollow(stream, size) if name == b"mdat" else ""
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
    missing = "" if unknown else _missing(stream.tell() + length, size)
    return missing or _hollow(stream, size)


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
    """Ogg: pages one after the other, the last of each logical stream marked (RFC 3533)."""
    place, begun, ended = 0, 0, 0
    for _ in range(_MAX_PIECES):
        if place >= size:
            break
        stream.seek(place)
        head = stream.read(27)
        if head[:4] != b"OggS":
            if begun <= ended:  # what follows the end (tags, padding) is no part of it
                break
            raise ValueError(f"holds no page at byte {place}")
        table = stream.read(head[26]) if len(head) == 27 else b""
        if len(head) < 27 or len(table) < head[26] or place + 27 + len(table) + sum(table) > size:
            return "ends inside a page"
        if (
            _page_sum(head[:22] + bytes(4) + head[26:] + table + stream.read(sum(table)))
            != head[22:26]
        ):
            raise ValueError(f"holds other bytes than were written after byte {place}")
        begun += bool(head[5] & 2)
        ended += bool(head[5] & 4)
        place += 27 + len(table) + sum(table)
    else:
        return ""
    return "" if ended and begun <= ended else "ends before its last page"


def _page_sum(page: bytes) -> bytes:
    """The sum over a page: zlib's, but from zero and with the bits of each byte the other way
    round."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return mirrored.to_bytes(4, "big").translate(_MIRRORED)


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
    if len(head) >= place + 100 and not flags & 1:
        packet = struct.unpack_from("<I", head, place + 96)[0]  # a packet begins with what it holds
        if fault := _hollow(stream, size, max(packet, 256)):
            return fault
    return "" if flags & 1 or is_unknown(stated, 64) else _missing(stated, size)


def _gif(stream: BinaryIO, size: int) -> str:
    stream.seek(max(0, size - 64))
    return "" if stream.read().rstrip(b"\0").endswith(b";") else "ends before its last frame"


def _transport(stream: BinaryIO, size: int) -> str:
    """MPEG-TS: packets of one size."""
    head = stream.read(204 * 4 + 4)
    for length, shift in ((188, 0), (192, 4), (204, 0)):
        if all(head[shift + length * k : shift + length * k + 1] == b"G" for k in range(4)):
            stream.seek(size - length + shift)
            return "" if size % length == 0 and stream.read(1) == b"G" else "ends inside a packet"
    return ""


def _program(stream: BinaryIO, size: int) -> str:
    """MPEG-PS: packs and packets one after the other, each with a start code (ISO 13818-1)."""
    place = 0
    for _ in range(_MAX_PIECES):
        if place == size:
            return ""
        stream.seek(place)
        head = stream.read(14)
        if len(head) < 6:
            return "ends inside a packet"
        head = head.ljust(14, b"\0")
        if head[:3] != b"\0\0\1" or head[3] == 0xB9:  # stuffing, or the end
            return _hollow(stream, size)
        if head[3] == 0xBA:
            place += 14 + (head[13] & 7) if head[4] >> 6 == 1 else 12
        else:
            place += 6 + int.from_bytes(head[4:6])
    return ""


def _png(stream: BinaryIO, size: int) -> str:
    """PNG: chunks, each with its length and a sum over its bytes."""
    place = 8
    while place < size:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            return "ends inside a chunk"
        length = int.from_bytes(head[:4])
        if place + 12 + length > size:
            return _missing(place + 12 + length, size)
        body, told = stream.read(length), stream.read(4)
        is_needed = not head[4] & 0x20  # viewers pass over a damaged comment
        if is_needed and zlib.crc32(body, zlib.crc32(head[4:])) != int.from_bytes(told):
            raise ValueError(f"holds other bytes than were written after byte {place}")
        if head[4:] == b"IEND":
            return ""
        place += 12 + length
    return "ends before its last chunk"


def _qoi(stream: BinaryIO, size: int) -> str:
    stream.seek(max(0, size - 8))
    return "" if stream.read() == bytes(7) + b"\1" else "ends before its last pixels"


def _jpeg(stream: BinaryIO, size: int) -> str:
    """JPEG: the decoder takes zeros for image data, and grey for what they show."""
    fault = _hollow(stream, size)
    stream.seek(max(0, size - _MAX_TAIL))
    return "" if stream.read().rstrip(b"\0").endswith(b"\xff\xd9") else fault


def _hollow(stream: BinaryIO, size: int, most: int = _HOLLOW) -> str:
    """Say so where a file ends in ``most`` zeros or more: a download that was laid out before and
    not finished."""
    stream.seek(max(0, size - most))
    tail = stream.read()
    return f"ends in {most} bytes or more of zeros" if len(tail) == most and not any(tail) else ""


def _table(
    *checks: tuple[bytes, Callable[[BinaryIO, int], str]],
) -> tuple[tuple[re.Pattern[bytes], Callable[[BinaryIO, int], str]], ...]:
    return tuple((re.compile(pattern, re.DOTALL), check) for pattern, check in checks)


_CHECKS = _table(
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
    (rb"\x00\x00\x01\xba", _program),
    (rb"G|....G", _transport),
)
#: Of the other formats of images Pillow says whether they end too early, or nobody can.
_IMAGE_CHECKS = _table(
    (rb"....ftyp", _boxes),
    (rb"RIFF....WEBP", _riff),
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"qoif", _qoi),
    (rb"\xff\xd8\xff", _jpeg),
)
