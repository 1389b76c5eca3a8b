"""Record files, read strictly: every row is either a checked record or a reject with its reason."""

from __future__ import annotations

import gzip
import io
import json
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, TextIO, cast

import pyarrow as pa
from charset_normalizer import from_bytes
from pydantic import ValidationError

from vita_train.data.sources.leniency import LENIENCIES, TWICE, loosen
from vita_train.data.sources.records import Record
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
_FOREIGN = "; it holds bytes that are not UTF-8"
_NO_SPACE = re.compile(r"[^ \t\n\r]")


@dataclass(frozen=True)
class MediaRef:
    """A media file: the key of its root and its path below it."""

    root: str
    name: str

    def __str__(self) -> str:
        return f"{self.root}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> MediaRef:
        """Inverse of ``str``."""
        root, _, name = text.partition(":")
        return cls(root, name)

    def path(self, roots: Mapping[str, Path]) -> Path:
        """Where the file lies."""
        return roots[self.root] / self.name


@dataclass(frozen=True)
class Row:
    """A record that passed every check that needs no media file."""

    row: int
    """Place in the file, from 0."""
    id: str
    record: Record
    images: tuple[MediaRef, ...] = ()
    videos: tuple[MediaRef, ...] = ()
    audios: tuple[MediaRef, ...] = ()
    lenient: tuple[str, ...] = ()
    """Leniencies without which it would have been rejected."""


@dataclass(frozen=True)
class Rules:
    """How the records of a dataset are read."""

    lenient: tuple[str, ...] = ()
    """Names of leniencies (`vita_train.data.sources.leniency`); none is the strict format."""
    default: str | None = None
    """Root of images and videos of records without ``set``."""


STRICT = Rules()


@dataclass(frozen=True)
class Reject:
    """A row that is not used, and why."""

    row: int
    reason: str
    """Short category, the same words for the same fault, for counting."""
    detail: str
    """What exactly is wrong in this row."""
    id: str = ""


class RowError(ValueError):
    """A row that must be rejected; carries category and detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def read_records(
    path: Path, roots: Mapping[str, Path], rules: Rules = STRICT
) -> Iterator[Row | Reject]:
    """Yield every row of a JSON array or JSON Lines file, in order, as :class:`Row` or
    :class:`Reject`.

    Args:
        path: the record file, in UTF-8, UTF-16 or UTF-32, plain or compressed by gzip or zstd; an
            array is read piece by piece, never as a whole.
        roots: set key to media directory; the key ``audio`` serves audio files.
        rules: leniencies and default root of the dataset.

    Raises:
        DataError: the file is missing, unreadable, or an array that is not valid JSON (rows after
            the fault cannot be found, so the file as a whole is refused).
    """
    for row, value in enumerate(read_values(path)):
        yield _named(value_to_row(row, value, roots, rules), path)


def read_values(path: Path) -> Iterator[Any]:
    """Yield the decoded JSON values of a record file, in order; a `RowError` for a line that is
    none.

    Raises:
        DataError: as of `read_records`.
    """
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
        with _text_of(path, encoding, errors) as stream:
            yield from _array_values(stream, path) if first == "[" else _line_values(stream)
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


def value_to_row(
    row: int, value: Any, roots: Mapping[str, Path], rules: Rules = STRICT
) -> Row | Reject:
    """Check one decoded JSON value (or the RowError that decoding it gave).

    The detail of a reject names the leniencies that would take the record, if there are any.
    """
    found = _checked(row, value, roots, rules)
    if isinstance(found, Row) or not isinstance(value, dict):
        return found
    others = tuple(name for name in LENIENCIES if name not in rules.lenient)
    try:
        looser = _checked(row, deepcopy(value), roots, replace(rules, lenient=others))
    except RecursionError:
        return found
    if isinstance(looser, Reject) or not looser.lenient:
        return found
    return replace(
        found, detail=f"{found.detail}; lenient: [{', '.join(looser.lenient)}] would take it"
    )


def _checked(row: int, value: Any, roots: Mapping[str, Path], rules: Rules) -> Row | Reject:
    name = ""
    try:
        if isinstance(value, RowError):
            raise value
        if not isinstance(value, dict):
            raise RowError("not an object", f"expected an object, found {type(value).__name__}")
        name = row_id(row, value)
        _check_characters(value)
        used = loosen(value, rules.lenient)
        record = Record.model_validate(value)
        sets = record.image_sets
        return Row(
            row=row,
            id=name,
            record=record,
            images=tuple(
                _locate(kind, rules.default if key is None else key, file, roots)
                for kind, key, file in zip(["image"] * len(sets), sets, record.images, strict=True)
            ),
            videos=tuple(
                _locate("video", _one_set(record, rules), file, roots) for file in record.videos
            ),
            audios=tuple(_locate("audio", "audio", file, roots) for file in record.audios),
            lenient=used,
        )
    except RowError as error:
        return Reject(row, error.reason, error.detail, name)
    except RecursionError:
        return Reject(row, "not JSON", "is nested too deeply", name)
    except ValidationError as error:
        return Reject(row, *_explain(error), id=name)


def row_id(row: int, value: Mapping[str, Any]) -> str:
    """Return the record's id as text; rows without one are named by their place."""
    found = value.get("id")
    if found is None or found == "":
        return f"row-{row}"
    return (
        found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, sort_keys=True)
    )


def _one_set(record: Record, rules: Rules) -> str | None:
    key = record.set[0] if isinstance(record.set, list) else record.set
    return rules.default if key is None else key


def _locate(kind: str, key: str | None, name: str, roots: Mapping[str, Path]) -> MediaRef:
    if key is None:
        with_image = [root for root in roots if root != "audio"]
        if len(with_image) != 1:
            known = ", ".join(with_image) or "none"
            raise RowError(
                "no set",
                f"{kind} {name!r} needs a set that names its root, or the split a default; "
                f"roots are: {known}",
            )
        key = with_image[0]
    if key not in roots:
        known = ", ".join(sorted(roots)) or "none"
        raise RowError("unknown set", f"no root {key!r} for {kind} {name!r}; roots are: {known}")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise RowError("path outside its root", f"{kind} {name!r} must be a path below its root")
    return MediaRef(key, str(path))


def _explain(error: ValidationError) -> tuple[str, str]:
    """Category and one line for the first fault that pydantic found."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    kind = first["type"]
    if kind == "extra_forbidden":
        return (
            "duplicate key" if place.endswith(TWICE) else "unknown key"
        ), f"unknown key {place!r}"
    if kind == "missing":
        return "missing key", f"missing key {place!r}"
    if kind == "literal_error" and place.endswith("from"):
        return "unknown role", f"{place}: {first['msg']}"
    message = first["msg"].removeprefix("Value error, ")
    if not place:
        return _category(message), message
    return "wrong value", f"{place}: {message}"


def _category(message: str) -> str:
    for words, category in (
        ("alternate", "roles do not alternate"),
        ("without an answer", "unanswered question"),
        ("in human turns but", "placeholder count"),
        ("inserted_id", "inserted_id"),
        ("is empty", "empty turn"),
        ("image and video", "image and video"),
        ("end_tag", "end_tag"),
        ("seconds of a video", "start and end"),
        ("is not after start", "start and end"),
    ):
        if words in message:
            return category
    return "wrong value"


def _check_characters(value: Any) -> None:
    """Refuse bytes that are not UTF-8 (they were read as lone surrogates)."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RowError(
            "not UTF-8",
            f"text holds a character that is not valid Unicode: {error.object[error.start]!r}",
        ) from None


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
def _text_of(path: Path, encoding: str, errors: str) -> Iterator[TextIO]:
    with _bytes_of(path) as stream:
        text = io.TextIOWrapper(stream, encoding=encoding, errors=errors)
        try:
            yield text
        finally:
            text.detach()


def _encoding_of(path: Path) -> str:
    """UTF-8, UTF-16 or UTF-32, by a byte order mark or the zeros between ASCII characters."""
    with _bytes_of(path) as stream:
        return json.detect_encoding(stream.read(4))


def _named(row: Row | Reject, path: Path) -> Row | Reject:
    """Add to a row that is not UTF-8 what encoding the file seems to have."""
    if isinstance(row, Reject) and (row.reason == "not UTF-8" or row.detail.endswith(_FOREIGN)):
        return replace(row, detail=row.detail + _seeming_encoding(path))
    return row


@lru_cache(maxsize=8)
def _seeming_encoding(path: Path) -> str:
    """What a file that is not UTF-8 seems to be, for messages; empty where that cannot be told."""
    with _bytes_of(path) as stream:
        found = from_bytes(stream.read(_SAMPLE)).best()
    if found is None or found.encoding in ("ascii", "utf_8"):
        return ""
    return f"; the file seems to be {found.encoding}: convert it to UTF-8"


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


def _line_values(stream: TextIO) -> Iterator[Any]:
    while line := stream.readline(MAX_RECORD + 1):
        if len(line) > MAX_RECORD:
            while line and not line.endswith("\n"):
                line = stream.readline(_CHUNK)
            yield RowError("too large", f"line is longer than {MAX_RECORD} characters")
            continue
        text = line.strip().removeprefix("\ufeff")
        if not text:
            continue
        try:
            value, end = _decode_at(text, 0)
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
            yield value
        except json.JSONDecodeError as error:
            bytes_too = _FOREIGN if _NOT_UTF8.search(text) else ""
            yield RowError("not JSON", f"line is not valid JSON: {error}{bytes_too}")
        except RecursionError:
            yield RowError("not JSON", "line is nested too deeply")


def _array_values(stream: TextIO, path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON array, holding one element and one chunk in memory.

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


def _element(buffer: _Buffer, path: Path, row: int) -> Any:
    while True:
        try:
            value, end = _decode_at(buffer.text, buffer.place)
            # A number at the end of the buffer may go on in the next chunk; anything else is
            # complete.
            if end < len(buffer.text):
                buffer.place = end
                return value
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
    seeming = _seeming_encoding(path)
    return DataError(
        f"not a valid JSON array at row {row}: {fault}{seeming}",
        code="VT-DATA-025",
        where=str(path),
        remedy="write the file again, or use JSON Lines, where one bad line does not hide the rest",
    )
