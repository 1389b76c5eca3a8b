"""``vita-train data mixture``: which datasets the shipped mixtures name, and how each is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(group: typer.Typer) -> None:
    """Add the command to the ``data`` group."""
    group.command()(mixture)


def mixture(
    name: Annotated[str, typer.Argument(help="Name of a mixture; none lists them.")] = "",
    registry: Annotated[
        Path | None,
        typer.Option(help="Registry that is to have its datasets.", show_default=False),
    ] = None,
) -> None:
    """Show a mixture: the datasets of each stage, what they are made of, and by which commands."""
    from vita_train.data.sources.registry import load_registry
    from vita_train.errors import DataError, UserError
    from vita_train.recipe.mixtures import load_mixture, mixture_names

    if not name:
        for each in mixture_names():
            found = load_mixture(each)
            typer.echo(f"{each:<20} version {found.version}  {found.about}")
        return
    try:
        found = load_mixture(name)
    except ValueError as error:
        raise UserError(
            str(error), code="VT-USE-294", remedy="vita-train data mixture lists them"
        ) from error
    typer.echo(f"{found.name}, version {found.version}: {found.about}")
    for stage, parts in found.stages.items():
        typer.echo(f"{stage}: {', '.join(parts)}")
    for dataset, made in found.datasets.items():
        origin = ", ".join(made.entries) or "not in the catalogue"
        typer.echo(f"{dataset:<22} {origin}{': ' if made.how else ''}{made.how}")
    if registry is not None:
        there = set(load_registry(registry).datasets)
        if absent := [dataset for dataset in found.datasets if dataset not in there]:
            raise DataError(
                f"lacks {', '.join(absent)} of mixture {name}",
                code="VT-DATA-138",
                where=str(registry),
                remedy="add them to the registry, or leave them out of the stage's data",
            )
        typer.echo(f"{registry}: has all of them")
