"""``vita-train data top``, ``flan`` and ``reshard``: parts of large public tables and records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Scope = Literal["shard", "global"]


def register(group: typer.Typer) -> None:
    """Add the commands to the ``data`` group."""
    group.command()(top)
    group.command()(flan)
    group.command()(reshard)


def top(
    tables: Annotated[
        list[Path], typer.Argument(help="Parquet shards of COYO.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    share: Annotated[float, typer.Option(help="Of the rows.", min=0, max=1)] = 0.2,
    threshold: Annotated[float, typer.Option(help="The sum of similarities is above it.")] = 0.6,
    scope: Annotated[Scope, typer.Option(help="The share of each, or of all.")] = "shard",
) -> None:
    """Take the image-text pairs whose two similarities are highest."""
    from vita_train.data.select.top import TopSettings, select_top

    for name, each in select_top(tables, out, TopSettings(share, threshold, scope)).items():
        typer.echo(f"{name}: {each.kept} of {each.rows} rows, the lowest sum is {each.cutoff}")


def flan(
    folder: Annotated[
        Path, typer.Argument(help="Folder with the subfolders *_data.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Record file to write.", show_default=False)],
    count: Annotated[int, typer.Option(help="Rows to take.", min=2)] = 1_000_000,
) -> None:
    """Take evenly spaced rows of FLAN as records; none is loaded that is not near one of them."""
    from vita_train.data.adapters.base import write_rows
    from vita_train.data.select.even import flan_records, flan_tables
    from vita_train.storage.whole_file import check_not_read

    tables = flan_tables(folder)
    check_not_read(out, tables)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(out, flan_records(tables, count))


def reshard(
    files: Annotated[
        list[Path], typer.Argument(help="Record files, or folders of them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    rows: Annotated[int, typer.Option(help="Of each shard.", min=0)] = 0,
    shards: Annotated[int, typer.Option(help="In place of --rows: how many.", min=0)] = 0,
    seed: Annotated[
        int | None, typer.Option(help="Shuffle; without it the order of the files stays.", min=0)
    ] = None,
    drop_tail: Annotated[
        bool, typer.Option("--drop-tail", help="With --rows: leave out a smaller last shard.")
    ] = False,
) -> None:
    """Cut records anew into shards of a number of rows, or a number of shards; counts and digests
    stand beside them."""
    from vita_train.data.select.reshard import ReshardSettings
    from vita_train.data.select.reshard import reshard as reshard_files
    from vita_train.errors import UserError

    if (rows > 0) == (shards > 0) or (drop_tail and not rows):
        raise UserError(
            "give one of --rows and --shards; --drop-tail goes with --rows",
            code="VT-USE-295",
            where="--rows, --shards",
            remedy="--rows 12440 makes shards of that size, --shards 128 as many as that",
        )
    found = reshard_files(files, out, ReshardSettings(rows, shards, seed, not drop_tail))
    typer.echo(
        f"{out}: {found.written} of {found.read} rows in {len(found.shards)} shards; "
        f"{found.dropped} of the tail dropped, {found.unreadable} unreadable"
    )
