"""Files that the processes of a node share in a folder of bounded size; what was used least
recently goes first.

A reader gets a hard link of its own, so that a file which is evicted under it stays until it is
done. A file has its name only when it is whole, and the names are digests of the content: a process
that dies at any moment leaves nothing that could be taken for a file. How much there is stands in a
note that all count on; where a kill left it wrong, the next eviction, which looks at the files
themselves, puts it right.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vita_train.errors import UserError
from vita_train.storage.base import PRIVATE
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.host_cache import locked
from vita_train.storage.local import private_file
from vita_train.storage.scratch import remove_unused

#: Share of the limit that an eviction leaves, so that the next is some way off.
_LEFT = 0.9
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class BoundedCache:
    """A folder of files by name, up to so many bytes.

    Args:
        folder: made with the first file. All that share it give the same limit.
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def take(self, name: str, to: Path, fetch: Callable[[], bytes]) -> bool:
        """Put a file at ``to``, where nothing may be; fetched, and kept here, if it is not here
        yet. Say whether it was.

        Args:
            name: what its content alone determines.
            to: in a folder of the caller's, on the file system of the cache.
            fetch: returns the content.

        Raises:
            UserError: it is larger than the whole cache, or the disk is full.
        """
        kept = self._path(name)
        with translate_os_errors(kept):
            if self._linked(kept, to):
                return True
            data = fetch()
            with private_file(kept) as (temporary, file):
                file.write(data)
                file.flush()
                # The caller has it before it is counted: another's eviction right after cannot take
                # it away
                self._linked(temporary, to)
                self._admit(len(data))
                os.replace(temporary, kept)
        return False

    def has(self, name: str) -> bool:
        """Say whether a file is here."""
        return self._path(name).exists()

    def drop(self, name: str) -> None:
        """Remove a file that is not what it should be."""
        with suppress(OSError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _linked(self, kept: Path, to: Path) -> bool:
        """Link a file of the cache, if it is there, and note that it was used."""
        try:
            # The modification time is the time of last use; access times are switched off on many
            # machines
            os.utime(kept)
            os.link(kept, to)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # File systems without links: the file may be evicted while it is copied, and is then
            # missing here
            shutil.copyfile(kept, to)
        return True

    def _admit(self, size: int) -> None:
        """Make room for a file, and count it.

        Raises:
            UserError: there can be none.
        """
        # What fits only above the share would be evicted by the next file
        if size > self.limit * _LEFT:
            raise UserError(
                f"a media file of {size} bytes does not fit into a cache of {self.limit}",
                code="VT-USE-241",
                where=str(self.folder),
                remedy="raise storage.media_cache_gb",
            )
        note = self.folder / "bytes"
        with locked(self.folder / "bytes.lock"):
            try:
                total = int(note.read_text()) + size
            except (OSError, ValueError):  # the first, or one that a kill cut short
                total = sum(status.st_size for _, status in self._files()) + size
            if total > self.limit:
                total = self._evict(int(self.limit * _LEFT) - size) + size
            note.write_text(str(total))

    def _evict(self, room: int) -> int:
        """Remove files until they take at most so many bytes; return how many they take."""
        # By name where times are equal, so that all who evict agree
        files = sorted(self._files(), key=lambda item: (item[1].st_mtime_ns, item[0]))
        total = sum(status.st_size for _, status in files)
        for path, status in files:
            if total <= room:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= status.st_size
        return total

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the files; what writers that died left is removed."""
        for folder in sorted(self.folder.glob("??")):
            for entry in list(os.scandir(folder)):
                if entry.name.startswith(PRIVATE):
                    remove_unused([Path(entry.path)])
                    continue
                with suppress(FileNotFoundError):
                    yield entry.path, entry.stat()


@contextmanager
def removed_after(paths: list[Path]) -> Iterator[list[Path]]:
    """Remove files when the block ends."""
    try:
        yield paths
    finally:
        for path in paths:
            with suppress(OSError):
                path.unlink()
