"""``vita-train recipe``: list, show and check recipes."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the ``recipe`` group."""
    app.add_typer(recipe, name="recipe")


recipe = typer.Typer(help="List, show, check and compare recipes.", no_args_is_help=True)


@recipe.command("list")
def list_recipes() -> None:
    """List the shipped recipes."""
    from vita_train.recipe.presets import describe_presets

    for name, text in describe_presets().items():
        typer.echo(f"{name:<16} {text}")
