"""``vita-train data top`` and ``flan``: parts of large public tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Scope = Literal["shard", "global"]


def register(group: typer.Typer) -> None:
    """Add the commands to the ``data`` group."""
    group.command()(top)
    group.command()(flan)


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
