"""Many transfers beside each other, with a limit for each host."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

from vita_train.data.fetch.folder import part_path, refused, sync, to_final_name
from vita_train.data.fetch.lfs import is_pointer
from vita_train.data.fetch.limits import Limits, Stop
from vita_train.data.fetch.lock import LockedFile, LockFile
from vita_train.data.fetch.origin import RemoteFile
from vita_train.data.fetch.presence import changed
from vita_train.data.fetch.progress import Progress
from vita_train.data.fetch.transfer import StoppedTransfer, transfer
from vita_train.errors import DataError


def transfer_all(
    missing: Sequence[tuple[str, RemoteFile]],
    lock: LockFile,
    root: Path,
    limits: Limits,
    *,
    update: bool,
) -> None:
    """Transfer files beside each other, each host in a pool of its own, so that a slow one keeps
    no other waiting.

    Args:
        missing: files, each with the name of its source.
        lock: of the target folder; it has each file before it gets its final name.
        root: the target folder.
        limits: of transfers.
        update: take another version than that of the lock file.

    Raises:
        UserError, DataError, StorageError: of the first file in order that failed for good; the
            others stop, and what came of them is kept.
    """
    sizes = [file.size or file.expected for _, file in missing]
    known = [count for count in sizes if count is not None]
    progress = Progress("fetch", sum(known) if len(known) == len(sizes) else None)
    stop = Stop()
    with progress.shown(), ExitStack() as pools:
        hosts: dict[str, ThreadPoolExecutor] = {}
        futures: list[Future[None]] = []
        for name, file in missing:
            host = file.origin.host
            if host not in hosts:
                hosts[host] = pools.enter_context(ThreadPoolExecutor(limits.per_host))
            futures.append(
                hosts[host].submit(
                    _transfer_one, name, file, lock, root, limits, stop, progress, update
                )
            )
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also where the user interrupts
            if not all(future.done() for future in futures):
                stop.set()
            for future in futures:
                future.cancel()
    for error in (future.exception() for future in futures if not future.cancelled()):
        if error is not None and not isinstance(error, StoppedTransfer):
            raise error


def _transfer_one(
    name: str,
    file: RemoteFile,
    lock: LockFile,
    root: Path,
    limits: Limits,
    stop: Stop,
    progress: Progress,
    update: bool,
) -> None:
    part = part_path(root, file.path)
    first = True

    def report(count: int) -> None:
        nonlocal first
        (progress.skip if first else progress.add)(count)
        first = False

    try:
        arrived = transfer(file, part, limits=limits, stop=stop, report=report)
        if is_pointer(part):
            part.unlink()
            raise DataError(
                "is a pointer of Git LFS, not the file itself",
                code="VT-DATA-058",
                where=file.origin.where,
                remedy="fetch the repository by its hub name (hf:datasets/OWNER/NAME), or pull its "
                "LFS files in a checkout",
            )
        earlier = lock.source(name).files.get(file.path)
        if not update and earlier is not None and earlier.sha256 != arrived.sha256:
            part.unlink()
            raise changed(file.origin.where, arrived.sha256, earlier.sha256)
        sync(part)
        lock.add_file(
            name,
            file.path,
            LockedFile(
                origin=file.origin.where,
                bytes=arrived.bytes,
                sha256=arrived.sha256,
                verified="published" if file.sha256 else "recorded",
            ),
        )
        to_final_name(part, root / file.path)
    except OSError as error:
        stop.set()
        raise refused(error, root) from error
    except BaseException:
        stop.set()
        raise
