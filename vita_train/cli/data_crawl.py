"""``vita-train data crawl``: the images that lists of URLs and documents name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vita_train.data.crawl.settings import CrawlSettings, Kind, Limits

_CORES = os.cpu_count() or 1
_S, _L = CrawlSettings(), Limits()


def register(group: typer.Typer) -> None:
    """Add the command to the ``data`` group."""
    group.command()(crawl)


def crawl(
    lists: Annotated[
        list[Path],
        typer.Argument(
            help="Lists (JSON Lines or Parquet), or folders of them; each is a shard.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    kind: Annotated[
        Kind, typer.Option(help="Rows with a URL each, or documents with image_info.")
    ] = "urls",
    column: Annotated[str, typer.Option(help="Of urls: where the URL of a row stands.")] = "url",
    at_least: Annotated[
        int, typer.Option(help="Images that a document must keep; 0 asks for all.", min=0)
    ] = 0,
    shards: Annotated[
        str,
        typer.Option(
            metavar="FIRST:END", help="Only these lists, in the order of their names; END excluded."
        ),
    ] = "",
    short_side: Annotated[
        int, typer.Option(help="Pixels; larger images are made smaller.", min=1)
    ] = _S.short_side,
    quality: Annotated[int, typer.Option(help="Of JPEG.", min=1, max=100)] = _S.quality,
    concurrency: Annotated[
        int, typer.Option(help="Requests at a time, of each process.", min=1, max=4096)
    ] = _L.concurrency,
    per_host: Annotated[
        int, typer.Option(help="Requests at a time to one host, of each process.", min=1)
    ] = _L.per_host,
    rate: Annotated[
        float, typer.Option(help="Requests a second to one host, of all.", min=0.01)
    ] = _L.rate,
    connect_seconds: Annotated[
        float, typer.Option(help="Until a connection stands.", min=0.1)
    ] = _L.connect,
    total_seconds: Annotated[
        float, typer.Option(help="For an image with its redirects.", min=0.1)
    ] = _L.total,
    tries: Annotated[int, typer.Option(help="Where another may help.", min=1)] = _L.tries,
    max_bytes: Annotated[int, typer.Option(help="Of an image.", min=1)] = _S.max_bytes,
    redirects: Annotated[int, typer.Option(help="The most of an image.", min=0)] = _S.redirects,
    no_robots: Annotated[
        bool, typer.Option("--no-robots", help="Do not ask what robots.txt allows.")
    ] = False,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private", help="Ask private and local addresses too: a web of your own."
        ),
    ] = False,
    ca_file: Annotated[
        str, typer.Option(help="Certificates to trust in place of the system's.")
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Processes; the result does not depend on it.", min=1)
    ] = _CORES,
) -> None:
    """Fetch images from the web: politely, restartable by shard, in the order of the lists."""
    from vita_train.data.crawl.run import crawl as crawl_lists

    settings = CrawlSettings(
        kind, column, at_least, short_side, quality, max_bytes, redirects,
        not no_robots, allow_private, ca_file,
    )  # fmt: skip
    limits = Limits(concurrency, per_host, rate, connect_seconds, total_seconds, tries)
    ledger = crawl_lists(lists, out, settings, limits, shards=_shards(shards), workers=workers)
    for what, reasons in (("images lost", ledger.lost), ("rows dropped", ledger.dropped)):
        for reason, count in sorted(reasons.items()):
            typer.echo(f"{what}: {reason} {count}")
    typer.echo(
        f"{out}: {ledger.kept} of {ledger.rows} rows, {ledger.fetched} of {ledger.urls} images"
    )


def _shards(text: str) -> tuple[int, int] | None:
    from vita_train.errors import UserError

    if not text:
        return None
    first, colon, end = text.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal()):
        raise UserError(
            f"{text!r} is no range of shards",
            code="VT-USE-243",
            where="--shards",
            remedy="write it as 0:1000",
        )
    return int(first), int(end)
