"""Record files, read strictly: every row is either a checked record or a reject with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from vita_train.data.sources.leniency import LENIENCIES, TWICE, loosen
from vita_train.data.sources.records import Record
from vita_train.data.sources.texts import (
    FOREIGN,
    RowError,
    read_values,
    seeming_encoding,
    value_of,
)


@dataclass(frozen=True)
class MediaRef:
    """A media file: the key of its root and its path below it."""

    root: str
    name: str
    cut: tuple[int, int] | None = None
    """Of a chunk of a recording, its first sample and one past its last, at the recipe's rate."""

    def __str__(self) -> str:
        whole = f"{self.root}:{self.name}"
        # No path that is written in the shortest way holds two slashes in a row.
        return f"{whole}//{self.cut[0]}-{self.cut[1]}" if self.cut else whole

    @classmethod
    def parse(cls, text: str) -> MediaRef:
        """Inverse of ``str``."""
        root, _, rest = text.partition(":")
        name, _, cut = rest.partition("//")
        first, _, end = cut.partition("-")
        return cls(root, name, (int(first), int(end)) if cut else None)

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
        found = value_to_row(row, value, roots, rules)
        yield found if isinstance(found, Row) else named(found, path)


def text_to_row(
    row: int, text: str | RowError, roots: Mapping[str, Path], rules: Rules = STRICT
) -> Row | Reject:
    """Check the JSON text of one record, as `value_to_row` does its value."""
    # Nothing but an escape makes characters beyond ASCII of such a text, and not half of one.
    is_plain = isinstance(text, str) and text.isascii() and "\\u" not in text
    return value_to_row(row, value_of(text), roots, rules, is_plain=is_plain)


def value_to_row(
    row: int,
    value: Any,
    roots: Mapping[str, Path],
    rules: Rules = STRICT,
    *,
    is_plain: bool = False,
) -> Row | Reject:
    """Check one decoded JSON value (or the RowError that decoding it gave).

    Args:
        row: its place in the file.
        value: it.
        roots: set key to media directory.
        rules: of the dataset.
        is_plain: it can hold no character that is not valid Unicode.

    The detail of a reject names the leniencies that would take the record, if there are any.
    """
    found = _checked(row, value, roots, rules, is_plain=is_plain)
    if isinstance(found, Row) or not isinstance(value, dict):
        return found
    others = tuple(
        name for name in LENIENCIES if name not in rules.lenient and LENIENCIES[name].forgives
    )
    try:
        looser = _checked(row, deepcopy(value), roots, replace(rules, lenient=others))
    except RecursionError:
        return found
    if isinstance(looser, Reject) or not looser.lenient:
        return found
    return replace(
        found, detail=f"{found.detail}; lenient: [{', '.join(looser.lenient)}] would take it"
    )


def _checked(
    row: int, value: Any, roots: Mapping[str, Path], rules: Rules, *, is_plain: bool = False
) -> Row | Reject:
    name = ""
    try:
        if isinstance(value, RowError):
            raise value
        if not isinstance(value, dict):
            raise RowError("not an object", f"expected an object, found {type(value).__name__}")
        name = row_id(row, value)
        if not is_plain:
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
        ("missing key", "missing key"),
        ("document", "document"),
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


def named(reject: Reject, path: Path) -> Reject:
    """Return a reject, where it is not UTF-8 with what encoding its file seems to have."""
    if reject.reason == "not UTF-8" or reject.detail.endswith(FOREIGN):
        return replace(reject, detail=reject.detail + seeming_encoding(path))
    return reject
