"""Record files as the JSON text of each record, and that text as values: plain or compressed, an
array or a record a line, read piece by piece."""

from __future__ import annotations

import gzip
import io
import json
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TextIO, cast

import pyarrow as pa
from charset_normalizer import from_bytes

from vita_train.data.sources.leniency import TWICE
from vita_train.errors import DataError

_CHUNK = 1 << 20
#: Bytes of a file by which its encoding is told.
_SAMPLE = 1 << 16
#: Characters of one record; a compressed file of a few kilobytes can hold a line of any length.
MAX_RECORD = 64 << 20
#: How compressed files begin, whatever they are called.
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: Digits of a number that Python reads by default.
_MAX_DIGITS = 4300
#: A fault nearer to the end of what was read than this may come from the cut: the longest token but
#: strings.
_NEAR = 32
#: Bytes that are not UTF-8, as they are read.
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")
FOREIGN = "; it holds bytes that are not UTF-8"
"""End of what is said of a text that is no JSON, where bytes of another encoding may be why."""
_NO_SPACE = re.compile(r"[^ \t\n\r]")


class RowError(ValueError):
    """A row that must be rejected; carries category and detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        return RowError, (self.reason, self.detail)


def read_values(path: Path) -> Iterator[Any]:
    """Yield the decoded JSON values of a record file, in order; a `RowError` for a line that is
    none.

    Raises:
        DataError: the file is missing, unreadable, or an array that is not valid JSON (rows after
            the fault cannot be found, so the file as a whole is refused).
    """
    with _opened(path) as (stream, is_array):
        if is_array:
            yield from (value for _, value in _elements(stream, path))
        else:
            yield from map(value_of, _lines(stream))


def read_texts(path: Path, start: int = 0) -> Iterator[str | RowError]:
    """Yield the JSON text of every record of a file, in order; a `RowError` for a line that is too
    long. ``value_of`` decodes one: `read_values` is the same in one go.

    Args:
        path: the file.
        start: byte at which to begin, of a file that `is_plain_lines`: a line's first.

    Raises:
        DataError: as of `read_values`.
    """
    with _opened(path, start) as (stream, is_array):
        if is_array:
            yield from (text for text, _ in _elements(stream, path))
        else:
            yield from _lines(stream)


def is_plain_lines(path: Path) -> bool:
    """Say whether a file is read as lines of UTF-8, with a record from its first byte on."""
    if not path.is_file():  # a pipe cannot be read twice
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError:
        return False
    return head.startswith(b"{") and json.detect_encoding(head) == "utf-8"


def lines_of(data: bytes) -> tuple[str | RowError, ...]:
    """Return the JSON texts of whole lines of a file that `is_plain_lines`."""
    return tuple(_lines(io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape")))


def value_of(text: str | RowError) -> Any:
    """Decode the text of a record; a `RowError` where it is no JSON."""
    if isinstance(text, RowError):
        return text
    try:
        value, end = _decode_at(text, 0)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        return value
    except json.JSONDecodeError as error:
        bytes_too = FOREIGN if _NOT_UTF8.search(text) else ""
        return RowError("not JSON", f"line is not valid JSON: {error}{bytes_too}")
    except RecursionError:
        return RowError("not JSON", "line is nested too deeply")


@lru_cache(maxsize=8)
def seeming_encoding(path: Path) -> str:
    """What a file that is not UTF-8 seems to be, for messages; empty where that cannot be told."""
    with _bytes_of(path) as stream:
        found = from_bytes(stream.read(_SAMPLE)).best()
    if found is None or found.encoding in ("ascii", "utf_8"):
        return ""
    return f"; the file seems to be {found.encoding}: convert it to UTF-8"


@contextmanager
def _opened(path: Path, start: int = 0) -> Iterator[tuple[TextIO, bool]]:
    """Open a record file as text, at a byte; say whether it holds an array."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise DataError(
                "record file is no regular file",
                code="VT-DATA-046",
                where=str(path),
                remedy="give a file; a pipe or a device cannot be read twice",
            )
        encoding = _encoding_of(path)
        # Bytes that are not UTF-8 cost their rows only; in the wider encodings nothing behind one
        # can be read.
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        with _text_of(path, encoding, errors) as stream:
            first = _first_character(stream)
        with _text_of(path, encoding, errors, start) as stream:
            yield stream, first == "["
    except UnicodeDecodeError as error:
        raise DataError(
            f"record file is not valid {error.encoding}: {error.reason}",
            code="VT-DATA-023",
            where=str(path),
            remedy="write it again in UTF-8",
        ) from error
    except (EOFError, zlib.error) as error:
        raise DataError(
            f"compressed record file is damaged or cut short: {error}",
            code="VT-DATA-047",
            where=str(path),
            remedy="fetch or write it again",
        ) from error
    except OSError as error:
        raise DataError(
            f"record file cannot be read: {error.strerror or error}",
            code="VT-DATA-024",
            where=str(path),
            remedy="check the path in the registry",
        ) from error


@contextmanager
def _bytes_of(path: Path) -> Iterator[IO[bytes]]:
    """Open a record file; what gzip or zstd has compressed is unpacked as it is read."""
    with path.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        if start.startswith(_GZIP):
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield cast(IO[bytes], unpacked)
        elif start == _ZSTD:
            with pa.CompressedInputStream(stream, "zstd") as unpacked:
                yield unpacked
        else:
            yield stream


@contextmanager
def _text_of(path: Path, encoding: str, errors: str, start: int = 0) -> Iterator[TextIO]:
    with _bytes_of(path) as stream:
        if start:
            stream.seek(start)
        text = io.TextIOWrapper(stream, encoding=encoding, errors=errors)
        try:
            yield text
        finally:
            text.detach()


def _encoding_of(path: Path) -> str:
    """UTF-8, UTF-16 or UTF-32, by a byte order mark or the zeros between ASCII characters."""
    with _bytes_of(path) as stream:
        return json.detect_encoding(stream.read(4))


def _first_character(stream: TextIO) -> str:
    while character := stream.read(1):
        if not character.isspace() and character != "\ufeff":
            break
    return character


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a key that occurs twice leaves a second, unknown key behind, which gets the
    row rejected."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        value[next(name for name in names if names.count(name) > 1) + TWICE] = None
    return value


def _integer(digits: str) -> int | str:
    """A whole number; one of more digits than Python reads as a number stays text."""
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs)
#: The same for numbers of any size. It is slower.
_LONG_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer)


def _decode_at(text: str, place: int) -> tuple[Any, int]:
    """Decode the value that begins at a place; return it and where it ends.

    Raises:
        json.JSONDecodeError: there is none.
        RecursionError: it is nested too deeply.
    """
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a number of thousands of digits
        return _LONG_DECODER.raw_decode(text, place)


def _lines(stream: TextIO) -> Iterator[str | RowError]:
    while line := stream.readline(MAX_RECORD + 1):
        if len(line) > MAX_RECORD:
            while line and not line.endswith("\n"):
                line = stream.readline(_CHUNK)
            yield RowError("too large", f"line is longer than {MAX_RECORD} characters")
            continue
        if text := line.strip().removeprefix("\ufeff"):
            yield text


def _elements(stream: TextIO, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield text and value of the elements of a JSON array, holding one element and one chunk in
    memory.

    The text read so far is copied once a chunk, not once an element.
    """
    buffer = _Buffer(stream)
    while buffer.next_character() != "[":
        buffer.place += 1  # a byte order mark
    buffer.place += 1
    row, first = 0, True
    while True:
        character = buffer.next_character()
        if character == "]":
            buffer.place += 1
            if buffer.next_character():
                raise _broken(path, row, "text follows the closing bracket")
            return
        if not first:
            if character != ",":
                fault = "expected a comma or the closing bracket" if character else "the file ends"
                raise _broken(path, row, fault)
            buffer.place += 1
            buffer.next_character()
        yield _element(buffer, path, row)
        row, first = row + 1, False


class _Buffer:
    """Part of a text file, and a place in it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.text = stream.read(_CHUNK)
        self.place = 0

    def more(self) -> bool:
        """Let go what lies before the place, and read as much as is left, or a chunk; false at the
        end."""
        left = self.text[self.place :]
        read = self._stream.read(max(_CHUNK, len(left)))
        self.text, self.place = left + read, 0
        return bool(read)

    def next_character(self) -> str:
        """Pass over white space; return the character behind it, empty at the end."""
        while True:
            found = _NO_SPACE.search(self.text, self.place)
            if found:
                self.place = found.start()
                return found.group()
            self.place = len(self.text)
            if not self.more():
                return ""


def _element(buffer: _Buffer, path: Path, row: int) -> tuple[str, Any]:
    while True:
        try:
            value, end = _decode_at(buffer.text, buffer.place)
            # A number at the end of the buffer may go on in the next chunk; anything else is
            # complete.
            if end < len(buffer.text):
                text = buffer.text[buffer.place : end]
                buffer.place = end
                return text, value
            fault = "the file ends inside an element"
        except json.JSONDecodeError as error:
            fault = str(error)
            # More text mends a value that is cut off, and no other.
            is_cut = error.msg.startswith("Unterminated") or error.pos + _NEAR > len(buffer.text)
            if not is_cut:
                raise _broken(path, row, fault) from None
        except RecursionError:
            raise _broken(path, row, "is nested too deeply") from None
        if len(buffer.text) - buffer.place > MAX_RECORD:
            raise _broken(path, row, f"an element is longer than {MAX_RECORD} characters")
        if not buffer.more():
            raise _broken(path, row, fault)


def _broken(path: Path, row: int, fault: str) -> DataError:
    seeming = seeming_encoding(path)
    return DataError(
        f"not a valid JSON array at row {row}: {fault}{seeming}",
        code="VT-DATA-025",
        where=str(path),
        remedy="write the file again, or use JSON Lines, where one bad line does not hide the rest",
    )
