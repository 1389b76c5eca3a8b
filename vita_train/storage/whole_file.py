"""Text files outside a store that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def whole_file(path: Path, *, errors: str = "strict") -> Iterator[TextIO]:
    """Open a text file in UTF-8 that gets its name when the block ends well; nothing is left of it
    otherwise. Its folder must be there.

    Args:
        path: the file.
        errors: what becomes of characters that UTF-8 has not, as of `open`.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", errors=errors) as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
