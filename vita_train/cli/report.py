"""``vita-train report``: a run as one page."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(run: str = typer.Argument(help="Run directory, <storage.root>/<run>.")) -> None:
    """Write a run, finished or not, as one self-contained HTML page and print its path."""
    from vita_train.report.render import render_report
    from vita_train.storage.store import local_path

    typer.echo(str(render_report(local_path(run))))
