"""``vita-train stage``: what torchrun runs, once per rank."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("stage", hidden=True)(stage)


def stage(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Name of a shipped recipe, or path of a YAML file.", show_default=False
        ),
    ],
    stage: Annotated[str, typer.Option(help="Stage id or alias.", show_default=False)],
    run: Annotated[
        str,
        typer.Option(
            "--run", help="Name of the run; the recipe's when not given.", show_default=False
        ),
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
    ] = None,
) -> None:
    """Train one stage in this process: one rank of a job, or all of it when not started by
    torchrun."""
    from vita_train.recipe.load import load_recipe
    from vita_train.runs.run import Run
    from vita_train.training.stage import run_stage

    manifest = run_stage(Run(load_recipe(recipe, settings or []), run), stage)
    if manifest is not None:
        typer.echo(
            f"stage {manifest.stage} is done: "
            + ", ".join(f"{name} {value:.4g}" for name, value in sorted(manifest.metrics.items()))
        )
