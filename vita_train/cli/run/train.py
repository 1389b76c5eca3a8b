"""``vita-train train``: the public trainer's command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vita_train.compat.vita.predecessors import TrainedBefore
    from vita_train.runs.run import Run


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
        names=_names,
        checkpoint=_trained_before,
        # A recipe that is only looked at may start from what is not there yet.
        exists=(lambda path: True) if dry_run else os.path.exists,
    )
    if run.hub_cache is not None:  # before anything of the hub's library is imported
        os.environ["HF_HUB_CACHE"] = run.hub_cache
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
    from vita_train.preflight.step import preflight_step
    from vita_train.runs.run import Run

    opened = Run(run.recipe)
    if run.resumed is not None:
        _check_resumed(opened, run.stage, run.resumed)
    opened.write_recipe()
    steps = {"data_fetch": fetch_step, "prepare": prepare_step, "preflight": preflight_step}
    for step, work in steps.items():
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


def _names(registry: str) -> list[str]:
    """The datasets and groups of a registry; none where there is no such file."""
    from vita_train.data.sources.registry import load_registry

    if not Path(registry).exists():
        return []
    found = load_registry(Path(registry))
    return [*found.datasets, *found.groups]


def _trained_before(folder: str) -> TrainedBefore | None:
    """What a run left in a folder; none where there is no run."""
    from vita_train.compat.vita.predecessors import TrainedBefore
    from vita_train.runs.run import RECIPE, Run

    if not (Path(folder) / RECIPE).is_file():
        return None
    run = Run.open(folder)
    modules = dict(run.recipe.weights)
    for stage in run.recipe.stages:
        manifest = run.final(stage)
        for name, ref in manifest.modules.items() if manifest is not None else ():
            if ref.stage == stage:
                modules[name] = f"{folder.rstrip('/')}/{stage}"
    return TrainedBefore(modules, run.recipe.model.llm.source, run.recipe.tokenizer.source)


def _check_resumed(run: Run, stage: str, checkpoint: str) -> None:
    """Refuse to go on from a checkpoint of a run with other settings, with the differences.

    Raises:
        UserError: there is no such checkpoint, or its run was another.
    """
    from vita_train.errors import UserError
    from vita_train.recipe.diff import differences
    from vita_train.runs.run import RECIPE, Run

    where = f"--resume_from_checkpoint {checkpoint}"
    if not Path(checkpoint).exists() or not (Path(run.uri()) / RECIPE).is_file():
        raise UserError(
            "there is nothing to go on from",
            code="VT-USE-238",
            where=where,
            remedy="name a folder below --output_dir, or leave the flag out to begin",
        )
    earlier = Run.open(run.uri()).recipe
    aside = ("storage.", "launch.", "tracking.")
    found = [
        str(one)
        for one in differences(earlier, run.recipe, stage=stage)
        if not one.setting.startswith(aside)
    ]
    if found:
        raise UserError(
            f"the run was another: {'; '.join(found)}",
            code="VT-USE-242",
            where=where,
            remedy="give the flags it was started with, or another --output_dir",
        )


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
