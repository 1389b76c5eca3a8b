"""Every shard of a crawl, in processes; shards that are done are left alone."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from vita_train.console import say
from vita_train.data.crawl.rows import list_files
from vita_train.data.crawl.settings import CrawlSettings, Limits
from vita_train.data.crawl.shard import Job, Ledger, crawl_shard, decoder_of
from vita_train.data.media.apart import Decoder
from vita_train.errors import UserError


def crawl(
    lists: Sequence[Path],
    out: Path,
    settings: CrawlSettings,
    limits: Limits,
    *,
    shards: tuple[int, int] | None = None,
    workers: int = 1,
) -> Ledger:
    """Fetch the images that lists name, a shard for each list.

    What is written depends on the lists, the settings and the web alone: neither on the number of
    processes nor on how often the crawl was interrupted. Several machines may each take a range of
    shards, into one folder or several.

    Args:
        lists: files, or folders of them.
        out: the folder to write; `vita_train.data.crawl.shard` says what.
        settings: what is fetched, and what becomes of it.
        limits: what is asked of the network.
        shards: first and one past the last of the lists in the order of their names; None is all.
        workers: processes. Each makes ``limits.concurrency`` requests at a time.

    Raises:
        UserError: no list, a range that is none, or a shard that was made of other things.
        DataError: a list cannot be read.
    """
    files = _in_range(list_files(lists), shards)
    shared = replace(limits, rate=limits.rate / workers)
    total = Ledger()
    jobs = []
    for job in (Job(file, out, settings, shared) for file in files):
        done = _done(job)
        if done is None:
            jobs.append(job)
        else:
            total.add(done)
    if len(jobs) < len(files):
        say(f"crawl: {len(files) - len(jobs)} of {len(files)} shards are there already")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for job, ledger in _crawled(jobs, workers):
            total.add(ledger)
            say(
                f"crawl: {job.name}: {ledger.kept} of {ledger.rows} rows, "
                f"{ledger.fetched} of {ledger.urls} images"
            )
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror or error}",
            code="VT-USE-245",
            where=str(out),
            remedy="make room or give another folder; shards that are done are not done again",
        ) from error
    return total


def _crawled(jobs: list[Job], workers: int) -> Iterator[tuple[Job, Ledger]]:
    if not jobs:
        return
    if workers == 1:
        with decoder_of(jobs[0].settings) as decoder:
            yield from ((job, crawl_shard(job, decoder)) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _start, (jobs[0].settings,)) as pool:
        futures = {pool.submit(_crawl_one, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_decoders: list[Decoder] = []
"""Of a process of the pool, its own; it ends with the process."""


def _start(settings: CrawlSettings) -> None:
    _decoders.append(decoder_of(settings))


def _crawl_one(job: Job) -> Ledger:
    return crawl_shard(job, _decoders[0])


def _in_range(files: list[Path], shards: tuple[int, int] | None) -> list[Path]:
    if shards is None:
        return files
    first, end = shards
    if not 0 <= first < end <= len(files):
        raise UserError(
            f"there are no shards {first} to {end} (the end excluded) of {len(files)} lists",
            code="VT-USE-246",
            where="--shards",
            remedy=f"give a range within 0:{len(files)}",
        )
    return files[first:end]


def _done(job: Job) -> Ledger | None:
    """Return the ledger of a shard that is whole.

    Raises:
        UserError: it was made of another list, or with other settings.
    """
    try:
        marker: dict[str, Any] = json.loads(job.marker.read_bytes())
        ledger = Ledger.read(marker["ledger"])
        sizes = {name: file["bytes"] for name, file in marker["files"].items()}
        if any((job.out / name).stat().st_size != size for name, size in sizes.items()):
            return None
        made = {name: marker[name] for name in ("source", "settings")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if made != job.key():
        raise UserError(
            "this shard was crawled from another list or with other settings",
            code="VT-USE-247",
            where=str(job.marker),
            remedy="give another folder, or remove the marker to crawl the shard anew",
        )
    return ledger
