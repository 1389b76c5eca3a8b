"""``vita-train recipe``: list, show, check and compare recipes, and their schema for editors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vita_train.recipe.stage import CurriculumPhase, StageSpec

Name = Annotated[
    str,
    typer.Argument(help="Name of a shipped recipe, or path of a YAML file.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
]

group = typer.Typer(help="List, show, check and compare recipes.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the ``recipe`` group."""
    app.add_typer(group, name="recipe")


@group.command("list")
def list_recipes() -> None:
    """List the shipped recipes, and those of the public launch scripts."""
    from vita_train.compat.vita.scripts import describe_scripts
    from vita_train.recipe.presets import describe_presets

    texts = {**describe_presets(), **describe_scripts()}
    width = max(map(len, texts))
    for name, text in texts.items():
        typer.echo(f"{name:<{width}}  {text}")


@group.command()
def show(recipe: Name, settings: Set = None) -> None:
    """Print a recipe with every setting in it, defaults included."""
    from vita_train.recipe.load import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(recipe, settings or [])), nl=False)


@group.command()
def check(recipe: Name, settings: Set = None) -> None:
    """Resolve a recipe and say what each stage trains, on what and for how long."""
    from vita_train.recipe.check import check_recipe
    from vita_train.recipe.load import load_recipe

    resolved = load_recipe(recipe, settings or [])
    check_recipe(resolved)
    for stage, spec in resolved.stages.items():
        length = f"{spec.epochs:g} epochs" if spec.most_steps is None else _steps(spec)
        typer.echo(
            f"{stage:<9} {spec.title:<27} {length} of {spec.batch.global_batch_size}, "
            f"{spec.objective}"
        )
        typer.echo(f"{'':<9} after {', '.join(spec.after or ['the data'])}")
        typer.echo(f"{'':<9} trains {_pairs(spec.trainable)}")
        if spec.lora:
            typer.echo(
                f"{'':<9} adapters of rank {spec.lora.rank} in {', '.join(spec.lora.modules)}"
            )
        if spec.quantize:
            typer.echo(f"{'':<9} over weights in {spec.quantize.kind}")
        for phase in spec.curriculum:
            typer.echo(f"{'':<9} first {_steps(phase)} on {_pairs(phase.data)}")
        typer.echo(f"{'':<9} on {_pairs(spec.data)}")
    typer.echo(f"{resolved.name}: ok, {len(resolved.stages)} stages")


def _steps(spec: StageSpec | CurriculumPhase) -> str:
    """Return how many steps a stage or phase takes, and what ends it."""
    if not spec.until:
        return f"{spec.most_steps} steps"
    return f"at most {spec.max_steps} steps, until {', '.join(spec.until)},"


@group.command()
def diff(
    first: Name,
    second: Name,
    settings: Set = None,
    stage: Annotated[
        str,
        typer.Option(
            help="Compare this stage alone, and all that no stage owns.", show_default=False
        ),
    ] = "",
) -> None:
    """Print the settings in which two recipes differ, with both values. --set applies to the
    second."""
    from vita_train.recipe.diff import differences
    from vita_train.recipe.load import load_recipe

    for change in differences(load_recipe(first), load_recipe(second, settings or []), stage=stage):
        typer.echo(str(change))


@group.command()
def schema() -> None:
    """Print the recipe's JSON schema, for editors that complete and check YAML."""
    import json

    from vita_train.recipe.json_schema import recipe_json_schema

    typer.echo(json.dumps(recipe_json_schema(), indent=1))


@group.command()
def upgrade(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Recipe files, rewritten in place.", show_default=False
        ),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 2 if a file has former keys.")
    ] = False,
) -> None:
    """Rewrite recipe files to today's names of keys; comments and layout stay as they are."""
    from vita_train.errors import RecipeError
    from vita_train.recipe.renamed import upgrade_file

    outdated = 0
    for file in files:
        renames = upgrade_file(file, write=not check)
        outdated += bool(renames)
        for rename in renames:
            typer.echo(f"{file}:{rename.line}: {rename.old} -> {rename.new}")
    if check and outdated:
        raise RecipeError(
            f"{outdated} of {len(files)} files have former keys"
            if len(files) > 1
            else "has former keys",
            code="VT-RECIPE-001",
            where=str(files[0]) if len(files) == 1 else "",
            remedy="run the same command without --check",
        )
    if not outdated:
        typer.echo("nothing to rename")


def _pairs(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
