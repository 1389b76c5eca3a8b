"""``vita-train model evaluate``: measure the newest weights of a run."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    run: Annotated[
        str, typer.Argument(help="Run directory or URI, <storage.root>/<run>.", show_default=False)
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most samples of a slice.", show_default=False)
    ] = None,
) -> None:
    """Print every held-out measure of a run's newest weights, and keep samples for its report."""
    from vita_train.evaluation.run import evaluate_run
    from vita_train.runs.run import Run

    for measure, value in sorted(evaluate_run(Run.open(run), max_samples=limit).items()):
        typer.echo(f"{measure:<40} {value:.4f}")
