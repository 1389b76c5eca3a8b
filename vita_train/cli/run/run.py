"""``vita-train run``, ``launch`` and ``preflight``."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from vita_train.errors import COMMAND

if TYPE_CHECKING:
    from vita_train.recipe import schema

Recipe = Annotated[str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.", show_default=False)]
Run = Annotated[str, typer.Option("--run", help="Name of the run; the recipe's when not given.", show_default=False)]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe.")]
Only = Annotated[str, typer.Option(help="Do this step alone (several with commas).", show_default=False)]
Since = Annotated[str, typer.Option("--from", help="Do this step and all that wait for it.", show_default=False)]
Until = Annotated[str, typer.Option(help="Do this step and all that it waits for.", show_default=False)]
Extend = Annotated[list[str] | None, typer.Option("--extend", metavar="STAGE=STEPS", help="Train a stage longer, from "
                                                  "its last checkpoint; the run remembers it.")]
Accept = Annotated[list[str] | None, typer.Option("--accept", metavar="STAGE", help="Go on although this stage missed "
                                                  "a gate; the run and its report remember it.")]
Force = Annotated[bool, typer.Option("--force", help="Do the chosen steps again even if committed.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("launch")(launch)
    app.command("preflight")(preflight)


def run(
    recipe: Recipe,
    run: Run = "",
    settings: Set = None,
    only: Only = "",
    since: Since = "",
    until: Until = "",
    force: Force = False,
    extend: Extend = None,
    accept: Accept = None,
) -> None:
    """Run the whole pipeline on this machine, or a part of it. What is committed already is not done again."""
    from rich.console import Console

    from vita_train.console import show_checks
    from vita_train.pipeline.local.ending import show_ending
    from vita_train.pipeline.local.run import run_pipeline
    from vita_train.pipeline.steps import earlier_recipe
    from vita_train.preflight.run import check_all
    from vita_train.recipe.extension import extended, remember
    from vita_train.recipe.load import load_recipe
    from vita_train.recipe.selection import Selection
    from vita_train.runs.paths import run_name

    console = Console()
    resolved = load_recipe(recipe, settings or [])
    name = run_name(resolved, run)
    resolved = extended(remember(resolved, earlier_recipe(resolved, name)), extend or [], accept or [])
    selection = Selection.parse(resolved, only, since, until, force)
    os.environ[COMMAND] = _command(recipe, run, settings or [])
    show_checks(check_all(resolved, name, selection), console)
    run_pipeline(resolved, name, selection, console)
    show_ending(resolved, name, console)


def _command(recipe: str, run: str, settings: list[str]) -> str:
    """Return the command that runs the whole pipeline of this run, to be pasted with further options."""
    from vita_train.pipeline.local.ending import program

    words = [program(), "run", recipe, *(["--run", run] if run else [])]
    return shlex.join([*words, *(word for setting in settings for word in ("--set", setting))])


def launch(
    recipe: Recipe,
    stage: Annotated[str, typer.Option(help="Name of the stage, or an alias.")],
    run: Run = "",
    settings: Set = None,
    backend: Annotated[str, typer.Option(help="Where the job runs: local, pytorchjob, trainjob; as the recipe says "
                                              "when not given.", show_default=False)] = "",
) -> None:
    """Run one stage as a job and print the manifest it committed."""
    from vita_train.pipeline.steps import write_recipe
    from vita_train.recipe.aliases import stage_name
    from vita_train.recipe.load import load_recipe
    from vita_train.runs.paths import run_name

    resolved = load_recipe(recipe, [*(settings or []), *([f"launch.backend={backend}"] if backend else [])])
    name = run_name(resolved, run)
    write_recipe(resolved, name)
    run_stage_of(resolved, name, stage_name(stage, resolved.stages))


def run_stage_of(recipe: schema.Recipe, name: str, stage: str) -> None:
    """Run one stage of a recipe as a job and print the manifest it committed."""
    from vita_train.pipeline.steps import train_step
    from vita_train.recipe.selection import Selection

    manifest = train_step(recipe, name, stage, Selection(frozenset({stage})))
    assert manifest is not None  # the stage is in the recipe and was asked for
    typer.echo(manifest.model_dump_json(indent=1))


def preflight(recipe: Recipe, run: Run = "", settings: Set = None) -> None:
    """Check that a run can succeed before it starts: recipe, storage, data, model, memory, ports."""
    from rich.console import Console

    from vita_train.console import show_checks
    from vita_train.preflight.run import check_all
    from vita_train.recipe.load import load_recipe
    from vita_train.runs.paths import run_name

    resolved = load_recipe(recipe, settings or [])
    show_checks(check_all(resolved, run_name(resolved, run)), Console(), always=True)
