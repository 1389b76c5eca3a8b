"""Text files outside a store that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from vita_train.errors import UserError


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


def check_not_read(out: Path, sources: Iterable[Path]) -> None:
    """Refuse to write over a file that is read.

    Raises:
        UserError: ``out`` is one of ``sources``.
    """
    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise UserError(
                "is read, and would be overwritten",
                code="VT-USE-291",
                where=str(source),
                remedy="give another place to write",
            )
