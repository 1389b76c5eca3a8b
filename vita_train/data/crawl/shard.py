"""One list to one shard: a folder of images, the rows that keep theirs, and a line for each loss.

What is written, below the folder of the crawl, for a list ``NAME``:

- ``media/NAME/ROW-IMAGE.jpg``: the images, named by the places of row and image in the list;
- ``NAME.jsonl``: rows that were kept, in the order of the list;
- ``NAME.lost.jsonl``: each URL without an image, each row that was dropped, and why;
- ``NAME.done.json``: counts and digests; the last to be written, so that it says that all is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from vita_train.data.check.examine import plain_settings
from vita_train.data.crawl.client import Client
from vita_train.data.crawl.rows import Image, merged, read_rows, stem_of, urls_of
from vita_train.data.crawl.settings import CrawlSettings, Limits, Lost, Reason
from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.media.encode import ImageOutput, Output
from vita_train.data.media.measure import MediaFile
from vita_train.errors import DataError
from vita_train.recipe.data import AudioSpec
from vita_train.storage.digest import digest_of, sha256_file
from vita_train.storage.whole_file import whole_file

MEDIA = "media"
#: Rows that are worked at in excess of what the network is asked for: hosts that are slow, or
#: whose turn is later, hold up none of the others.
_WINDOW = 8

_REASONS = {"too large": Reason.TOO_MANY_PIXELS, "truncated image": Reason.CUT_OFF}


@dataclass
class Ledger:
    """Counts of a shard or of several: ``rows`` is kept and dropped, ``urls`` fetched and lost."""

    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    urls: int = 0
    fetched: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, other: Ledger) -> None:
        """Count what another holds too."""
        self.rows += other.rows
        self.kept += other.kept
        self.urls += other.urls
        self.fetched += other.fetched
        self.dropped.update(other.dropped)
        self.lost.update(other.lost)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            **asdict(self),
            "dropped": dict(sorted(self.dropped.items())),
            "lost": dict(sorted(self.lost.items())),
        }

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Ledger:
        """Inverse of `plain`."""
        found = cls(**plain)
        return replace(found, dropped=Counter(found.dropped), lost=Counter(found.lost))


@dataclass(frozen=True)
class Job:
    """A shard that is to be crawled."""

    source: Path
    out: Path
    settings: CrawlSettings
    limits: Limits

    @property
    def name(self) -> str:
        return stem_of(self.source)

    @property
    def marker(self) -> Path:
        """The file that says that all is there."""
        return self.out / f"{self.name}.done.json"

    def key(self) -> dict[str, str]:
        """What the content of a shard depends on, but for the network."""
        return {
            "source": sha256_file(self.source),
            "settings": digest_of(asdict(self.settings)),
        }


@dataclass
class _Found:
    """What became of the images of a row."""

    place: int
    row: Mapping[str, Any] | None
    urls: Sequence[str] = ()
    images: Sequence[Image | Reason] = ()
    fault: Reason | None = None


def decoder_of(settings: CrawlSettings) -> Decoder:
    """Return what makes images of what is fetched, in a process of its own."""
    output = ImageOutput(settings.short_side, "shortest", quality=settings.quality)
    return Decoder(replace(plain_settings(AudioSpec()), output=Output(output), details=False))


def crawl_shard(job: Job, decoder: Decoder) -> Ledger:
    """Fetch what a list names. What a run before left unfinished is done again.

    Raises:
        DataError: the list cannot be read, or something else lies where its images would.
        OSError: the folder cannot be written.
    """
    media, rows = job.out / MEDIA / job.name, job.out / f"{job.name}.jsonl"
    is_list = rows.exists() and rows.samefile(job.source)
    if is_list or (media.exists() and not rows.exists()):
        raise DataError(
            "is there already and no crawl made it",
            code="VT-DATA-132",
            where=str(rows if is_list else media),
            remedy="give another folder: what is there would be replaced",
        )
    part = media.with_name(f"{job.name}.part")
    for folder in (part, media):  # a shard without its marker is none
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    key = job.key()
    with (
        whole_file(rows) as kept,
        whole_file(job.out / f"{job.name}.lost.jsonl") as lost,
    ):
        ledger = asyncio.run(_crawl(job, part, _Sink(job.settings, kept, lost), decoder))
    part.replace(media)
    files = {
        name: {"bytes": (job.out / name).stat().st_size, "sha256": sha256_file(job.out / name)}
        for name in (f"{job.name}.jsonl", f"{job.name}.lost.jsonl")
    }
    with whole_file(job.marker) as stream:
        json.dump({**key, "ledger": ledger.plain(), "files": files}, stream, indent=1)
    return ledger


class _Sink:
    """Writes rows in the order of the list, and counts them."""

    def __init__(self, settings: CrawlSettings, kept: TextIO, lost: TextIO) -> None:
        self._settings, self._kept, self._lost = settings, kept, lost
        self.ledger = Ledger()

    def take(self, found: _Found, folder: Path) -> None:
        """Write what became of a row, and drop the images of one that is not kept."""
        ledger = self.ledger
        ledger.rows += 1
        ledger.urls += len(found.urls)
        for index, (url, image) in enumerate(zip(found.urls, found.images, strict=True)):
            if isinstance(image, Reason):
                ledger.lost[image] += 1
                self._say({"row": found.place, "image": index, "url": url, "reason": image})
            else:
                ledger.fetched += 1
        try:
            if found.fault is not None or found.row is None:
                raise Lost(found.fault or Reason.BAD_ROW)
            images = [None if isinstance(image, Reason) else image for image in found.images]
            row = merged(found.row, images, found.place, self._settings)
        except Lost as lost:
            ledger.dropped[lost.reason] += 1
            self._say({"row": found.place, "reason": lost.reason})
            for image in found.images:
                if isinstance(image, Image):
                    (folder / Path(image.name).name).unlink()
            return
        ledger.kept += 1
        self._kept.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _say(self, line: Mapping[str, Any]) -> None:
        self._lost.write(json.dumps(line) + "\n")


async def _crawl(job: Job, folder: Path, sink: _Sink, decoder: Decoder) -> Ledger:
    waiting: deque[asyncio.Task[_Found]] = deque()
    with ThreadPoolExecutor(1) as beside:

        async def decode(path: Path) -> bytes:
            return await asyncio.get_running_loop().run_in_executor(
                beside, lambda: decoder.measure(MediaFile("image", path)).encoded
            )

        async with Client(job.settings, job.limits) as client:
            try:
                for place, row in enumerate(read_rows(job.source)):
                    work = _fetch_row(place, row, job, folder, client, decode)
                    waiting.append(asyncio.create_task(work))
                    while len(waiting) >= _WINDOW * job.limits.concurrency or (
                        waiting and waiting[0].done()
                    ):
                        sink.take(await waiting.popleft(), folder)
                    await asyncio.sleep(0)
                while waiting:
                    sink.take(await waiting.popleft(), folder)
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
    return sink.ledger


async def _fetch_row(
    place: int,
    row: Mapping[str, Any] | None,
    job: Job,
    folder: Path,
    client: Client,
    decode: Callable[[Path], Awaitable[bytes]],
) -> _Found:
    try:
        urls = urls_of(row, job.settings)
    except Lost as lost:
        return _Found(place, row, fault=lost.reason)

    async def fetch(index: int, url: str) -> Image | Reason:
        path = folder / f"{place:08d}-{index:04d}.jpg"
        raw = path.with_suffix(".raw")
        try:
            await client.fetch(url, raw)
            data = await decode(raw)
        except Lost as lost:
            return lost.reason
        except MediaError as error:
            return _REASONS.get(error.reason, Reason.NOT_AN_IMAGE)
        finally:
            raw.unlink(missing_ok=True)
        path.write_bytes(data)
        return Image(f"{job.name}/{path.name}", hashlib.sha256(data).hexdigest())

    images = await asyncio.gather(*(fetch(index, url) for index, url in enumerate(urls)))
    return _Found(place, row, urls, images)
