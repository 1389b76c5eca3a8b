"""``vita-train data rewrite``: files of public formats as records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(group: typer.Typer) -> None:
    """Add the command to the ``data`` group."""
    group.command()(rewrite)


def rewrite(
    name: Annotated[str, typer.Argument(help="Format of the files.", show_default=False)],
    files: Annotated[
        list[Path],
        typer.Argument(help="JSON Lines or Parquet, or folders of them.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Record file to write.", show_default=False)],
) -> None:
    """Write the rows of public files as records, and what is rejected with its reason beside."""
    from vita_train.data.formats.rewrite import rewrite as rewrite_files

    counts = rewrite_files(name, files, out)
    for reason, count in sorted(counts.reasons.items()):
        typer.echo(f"rejected: {reason} {count}")
    typer.echo(
        f"{out}: {counts.records} records of {counts.used} rows, {counts.reasons.total()} of "
        f"{counts.rows} rejected"
    )
