"""``vita-train preflight``: can this run succeed?"""

from __future__ import annotations

import typer

from vita_train.cli.run.run import Gpu, Recipe, RunName, Set


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("preflight")(preflight)


def preflight(
    recipe: Recipe,
    run: RunName = "",
    settings: Set = None,
    gpu: Gpu = "",
) -> None:
    """Check that a run can succeed before it starts: recipe, packages, storage, data and media,
    pretrained sources, model, memory, ports. Ends with 2 where it cannot; warnings do not count."""
    from rich.console import Console

    from vita_train.console import show_checks
    from vita_train.preflight.run import check_all
    from vita_train.recipe.load import load_recipe
    from vita_train.runs.run import Run

    opened = Run(load_recipe(recipe, settings or []), run).remembered()
    show_checks(check_all(opened, thorough=True, gpu=gpu), Console(), always=True)
