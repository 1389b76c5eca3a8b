"""``vita-train report``: a run as one page."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(run: str = typer.Argument(help="Run directory or URI, <storage.root>/<run>.")) -> None:
    """Write a run, finished or not, as one self-contained HTML page and print its path."""
    from vita_train.report.render import render_report
    from vita_train.runs.run import Run
    from vita_train.storage.base import is_local, local_path

    if is_local(run):
        page = render_report(local_path(run))
    else:
        opened = Run.open(run)
        page = render_report(opened.dir, store=opened.own_store())
    typer.echo(str(page))
