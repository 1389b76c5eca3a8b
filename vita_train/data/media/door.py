"""The one door to media files: every file is looked up here, and whatever a decoder raises becomes
a `MediaError`."""

from __future__ import annotations

import hashlib
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from vita_train.data.media import MediaError

Kind = Literal["image", "audio", "video"]

#: Bytes of a file's digest that an index keeps; chance hides one changed file in 2**64.
DIGEST_BYTES = 8

#: What decoders say of a file that ends too early, in lower case.
_CUT_SHORT = ("truncated", "unexpected end", "end of file")


def find_file(path: Path, kind: Kind) -> Path:
    """Return where a media file lies.

    A name is also found where the file system holds it in another normal form of Unicode (macOS
    decomposes names, most other systems keep them composed); the exact name comes first.

    Raises:
        MediaError: missing, empty, or no regular file (a pipe or a device would block or never
            end).
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        found = _other_form(path)
        if found is None:
            raise MediaError("missing file", f"{kind} {path} does not exist") from None
        return find_file(found, kind)
    except (OSError, ValueError) as error:
        raise MediaError(f"unreadable {kind}", f"{path}: {_said(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"unreadable {kind}", f"{kind} {path} is no regular file")
    if status.st_size == 0:
        raise MediaError("empty file", f"{kind} {path} is empty")
    return path


def content_digest(path: Path, kind: Kind) -> bytes:
    """Return the first ``DIGEST_BYTES`` bytes of the sha256 of a media file.

    Raises:
        MediaError: it cannot be read.
    """
    with decoding(path, kind), find_file(path, kind).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()[:DIGEST_BYTES]


@contextmanager
def decoding(path: Path, kind: Kind) -> Iterator[None]:
    """Turn whatever is raised inside into a `MediaError` that names the file and the kind of fault.

    Decoders of damaged files raise nearly anything (EOFError, AttributeError, MemoryError, errors
    of FFmpeg that derive from no common class); none of it may end the work on other files.
    """
    try:
        yield
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(
            "too large", f"{path}: decoding takes more memory than is allowed: {_said(error)}"
        ) from None
    except Exception as error:
        said = _said(error)
        cut = isinstance(error, EOFError) or any(words in said.lower() for words in _CUT_SHORT)
        raise MediaError(
            f"{'truncated' if cut else 'unreadable'} {kind}", f"{path}: {said}"
        ) from None


def _said(error: BaseException) -> str:
    """What an error says in one line, with its class where that tells more."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return (
        text
        if text and isinstance(error, OSError | ValueError)
        else f"{type(error).__name__} {text}".strip()
    )


def _other_form(path: Path) -> Path | None:
    """The same path with each missing part in another normal form of Unicode; None if there is
    none."""
    if path.as_posix().isascii():
        return None
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        forms = dict.fromkeys(
            (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        )
        there = next((found / form for form in forms if (found / form).exists()), None)
        if there is None:
            return None
        found = there
    return found
