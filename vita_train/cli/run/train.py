"""``vita-train train``: the public trainer's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
    )(train)


def train(
    context: typer.Context,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recipe to a file.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="End after the recipe.")] = False,
    stage: Annotated[
        str,
        typer.Option(
            help="Stage id or alias; inferred from the flags when not given.", show_default=False
        ),
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
    ] = None,
    like_public: Annotated[
        bool,
        typer.Option(
            "--like-public",
            help="Where flags contradict each other and the "
            "public code goes on all the same, do so too.",
        ),
    ] = False,
    flags: Annotated[
        bool, typer.Option("--flags", help="Print every flag as a page of Markdown and end.")
    ] = False,
) -> None:
    """Train one stage as the public trainer's flags say: --FLAG VALUE ..., see --flags.

    The recipe that they come to is printed; then its data are prepared, and the stage runs as with
    launch.
    """
    from vita_train.cli.run.run import run_stage_of
    from vita_train.compat.vita.build import public_run
    from vita_train.compat.vita.document import document
    from vita_train.recipe.check import check_recipe
    from vita_train.recipe.load import dump_recipe
    from vita_train.recipe.selection import Selection

    if flags:
        typer.echo(document(), nl=False)
        return
    run = public_run(
        context.args,
        stage=stage,
        settings=settings or [],
        like_public=like_public,
        members=_members,
    )
    for note in run.notes:
        typer.echo(f"note: {note}", err=True)
    check_recipe(run.recipe)
    text = dump_recipe(run.recipe)
    if save is not None:
        _write(save, text)
    typer.echo(text, nl=False)
    if dry_run:
        return

    from vita_train.pipeline.steps import fetch_step, prepare_step
    from vita_train.runs.run import Run

    opened = Run(run.recipe)
    opened.write_recipe()
    for step, work in (("data_fetch", fetch_step), ("prepare", prepare_step)):
        typer.echo(f"run {opened.name}: {step}", err=True)
        work(opened, Selection())
    typer.echo(f"run {opened.name}: stage {run.stage}", err=True)
    run_stage_of(opened, run.stage)


def _members(registry: str, name: str) -> dict[str, float]:
    """The datasets that a name of a registry stands for; a registry that is not there yet (a dry
    run) has no groups."""
    from vita_train.data.sources.registry import load_registry

    if not Path(registry).exists():
        return {name: 1.0}
    return load_registry(Path(registry)).members(name)


def _write(path: Path, text: str) -> None:
    from vita_train.errors import UserError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the recipe cannot be written: {error.strerror}",
            code="VT-USE-004",
            where=f"--save {path}",
            remedy="give a file in a folder that exists",
        ) from error
