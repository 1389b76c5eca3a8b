"""``vita-train preflight``: can this run succeed?"""

from __future__ import annotations

import typer

from vita_train.cli.run.run import Recipe, Run, Set


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("preflight")(preflight)


def preflight(recipe: Recipe, run: Run = "", settings: Set = None) -> None:
    """Check that a run can succeed before it starts: recipe, storage, data, model, memory, ports."""
    from rich.console import Console

    from vita_train.console import show_checks
    from vita_train.pipeline.steps import remembered
    from vita_train.preflight.run import check_all
    from vita_train.recipe.load import load_recipe
    from vita_train.runs.paths import run_name

    resolved = load_recipe(recipe, settings or [])
    name = run_name(resolved, run)
    show_checks(check_all(remembered(resolved, name), name), Console(), always=True)
