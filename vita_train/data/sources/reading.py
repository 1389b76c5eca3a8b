"""Record files, read strictly: every row is either a checked record or a reject with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from pydantic import ValidationError

from vita_train.data.sources.records import Record
from vita_train.errors import DataError

_CHUNK = 1 << 20


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


def read_records(path: Path, roots: Mapping[str, Path]) -> Iterator[Row | Reject]:
    """Yield every row of a JSON array or JSON Lines file, in order, as :class:`Row` or :class:`Reject`.

    Args:
        path: the record file; an array is read piece by piece, never as a whole.
        roots: set key to media directory; the key ``audio`` serves sound files.

    Raises:
        DataError: the file is missing, unreadable, or an array that is not valid JSON (rows after the fault
            cannot be found, so the file as a whole is refused).
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as stream:
            first = _first_character(stream)
            values = _array_values(stream, path) if first == "[" else _line_values(stream)
            for row, value in enumerate(values):
                yield value_to_row(row, value, roots)
    except OSError as error:
        raise DataError(f"record file cannot be read: {error.strerror}", where=str(path),
                        remedy="check the path in the registry") from error


def value_to_row(row: int, value: Any, roots: Mapping[str, Path]) -> Row | Reject:
    """Check one decoded JSON value (or the RowError that decoding it gave)."""
    name = ""
    try:
        if isinstance(value, RowError):
            raise value
        if not isinstance(value, dict):
            raise RowError("not an object", f"expected an object, found {type(value).__name__}")
        name = row_id(row, value)
        _check_characters(value)
        record = Record.model_validate(value)
        sets = record.image_sets
        return Row(
            row=row, id=name, record=record,
            images=tuple(_locate(kind, key, file, roots) for kind, key, file in
                         zip(["image"] * len(sets), sets, record.images, strict=True)),
            videos=tuple(_locate("video", _one_set(record), file, roots) for file in record.videos),
            audios=tuple(_locate("audio", "audio", file, roots) for file in record.audios),
        )
    except RowError as error:
        return Reject(row, error.reason, error.detail, name)
    except ValidationError as error:
        return Reject(row, *_explain(error), id=name)


def row_id(row: int, value: Mapping[str, Any]) -> str:
    """Return the record's id as text; rows without one are named by their place."""
    found = value.get("id")
    if found is None or found == "":
        return f"row-{row}"
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, sort_keys=True)


def _one_set(record: Record) -> str | None:
    return record.set[0] if isinstance(record.set, list) else record.set


def _locate(kind: str, key: str | None, name: str, roots: Mapping[str, Path]) -> MediaRef:
    if key is None:
        raise RowError("no set", f"{kind} {name!r} needs a set that names its root")
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
        return ("duplicate key" if place.endswith(_TWICE) else "unknown key"), f"unknown key {place!r}"
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
        ("alternate", "roles do not alternate"), ("without an answer", "unanswered question"),
        ("in human turns but", "placeholder count"), ("inserted_id", "inserted_id"), ("is empty", "empty turn"),
        ("image and video", "image and video"), ("end_tag", "end_tag"),
    ):
        if words in message:
            return category
    return "wrong value"


def _check_characters(value: Any) -> None:
    """Refuse bytes that are not UTF-8 (they were read as lone surrogates)."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RowError("not UTF-8", f"text holds a character that is not valid Unicode: "
                                    f"{error.object[error.start]!r}") from None


def _first_character(stream: TextIO) -> str:
    while character := stream.read(1):
        if not character.isspace() and character != "\ufeff":
            break
    stream.seek(0)
    return character


_TWICE = " (twice)"


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a key that occurs twice leaves a second, unknown key behind, which gets the row rejected."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        value[next(name for name in names if names.count(name) > 1) + _TWICE] = None
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs)


def _line_values(stream: TextIO) -> Iterator[Any]:
    for line in stream:
        text = line.strip().removeprefix("\ufeff")
        if not text:
            continue
        try:
            yield _DECODER.decode(text)
        except (json.JSONDecodeError, RecursionError) as error:
            yield RowError("not JSON", f"line is not valid JSON: {error}")


def _array_values(stream: TextIO, path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON array, holding one element and one chunk in memory."""
    buffer = stream.read(_CHUNK).removeprefix("\ufeff").lstrip()[1:]
    row, first = 0, True
    while True:
        buffer = _skip(buffer, stream)
        if buffer.startswith("]"):
            if _skip(buffer[1:], stream):
                raise _broken(path, row, "text follows the closing bracket")
            return
        if not first:
            if not buffer.startswith(","):
                raise _broken(path, row, "expected a comma or the closing bracket" if buffer else "the file ends")
            buffer = _skip(buffer[1:], stream)
        value, buffer = _element(buffer, stream, path, row)
        yield value
        row, first = row + 1, False


def _skip(buffer: str, stream: TextIO) -> str:
    buffer = buffer.lstrip()
    while not buffer:
        chunk = stream.read(_CHUNK)
        if not chunk:
            return ""
        buffer = chunk.lstrip()
    return buffer


def _element(buffer: str, stream: TextIO, path: Path, row: int) -> tuple[Any, str]:
    size = _CHUNK
    while True:
        try:
            value, end = _DECODER.raw_decode(buffer)
            # A number at the end of the buffer may go on in the next chunk; anything else is complete.
            if end < len(buffer):
                return value, buffer[end:]
            fault = "the file ends inside an element"
        except (json.JSONDecodeError, RecursionError) as error:
            fault = str(error)
        chunk = stream.read(size)
        if not chunk:
            raise _broken(path, row, fault)
        buffer += chunk
        size = len(buffer)


def _broken(path: Path, row: int, fault: str) -> DataError:
    return DataError(f"not a valid JSON array at row {row}: {fault}", where=str(path),
                     remedy="write the file again, or use JSON Lines, where one bad line does not hide the rest")
