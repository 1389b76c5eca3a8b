"""Several files read as one, without a second copy on disk."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path


class JoinedFile(io.RawIOBase):
    """Files one after another as one that can be read and sought in.

    Args:
        paths: the files in order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self._paths = list(paths)
        sizes = [path.stat().st_size for path in paths]
        self.starts = [0, *accumulate(sizes)]
        """Offset of each file, and at the end that of them all."""
        self._place = 0
        self._open: tuple[int, io.BufferedReader] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.starts[-1]}[whence]
        if base + offset < 0:
            raise OSError("negative seek")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        if self._place >= self.starts[-1]:
            return 0
        number = bisect_right(self.starts, self._place) - 1
        file = self._file(number)
        file.seek(self._place - self.starts[number])
        count = file.readinto(view[: self.starts[number + 1] - self._place])
        self._place += count
        return count

    def _file(self, number: int) -> io.BufferedReader:
        if self._open is None or self._open[0] != number:
            self._close_file()
            self._open = (number, self._paths[number].open("rb"))
        return self._open[1]

    def _close_file(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        self._close_file()
        super().close()
