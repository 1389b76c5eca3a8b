"""``vita-train submit``: a run on a Kubeflow Pipelines server, from the shell."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_train.cli.run.run import Force, Gpu, Only, Recipe, RunName, Set, Since, Until

if TYPE_CHECKING:
    from vita_train.pipeline.server import PipelineServer
    from vita_train.recipe import schema

Endpoint = Annotated[
    str, typer.Option(envvar="KFP_ENDPOINT", help="URL of the server.", show_default=False)
]
Namespace = Annotated[
    str, typer.Option(help="Namespace on a multi-user installation.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("submit")(submit)


def submit(
    recipe: Recipe,
    endpoint: Endpoint,
    run: RunName = "",
    settings: Set = None,
    only: Only = "",
    since: Since = "",
    until: Until = "",
    force: Force = False,
    storage: Annotated[
        str,
        typer.Option(
            help="s3:// URI under which runs lie; the recipe's when not given.", show_default=False
        ),
    ] = "",
    pipeline: Annotated[
        str,
        typer.Option(
            help="Name of a pipeline on the server, to be taken as it is; when not "
            "given, the one with the recipe's stages, compiled and uploaded where "
            "the server lacks it.",
            show_default=False,
        ),
    ] = "",
    experiment: Annotated[str, typer.Option(help="What the run is listed under.")] = "vita-train",
    service_account: Annotated[
        str,
        typer.Option(
            help="Account of the steps; the server's default when not given.", show_default=False
        ),
    ] = "",
    namespace: Namespace = "",
    gpu: Gpu = "",
    check: Annotated[
        bool, typer.Option(help="Look at pretrained sources and build the model's shape first.")
    ] = True,
) -> None:
    """Start a run on a server. The recipe is checked here first, with its pretrained sources and
    the model's sizes, and travels with the run.

    A recipe with stages of its own gets a pipeline of its own, with the images and names that the
    pipelines on the server were compiled with; VITA_TRAIN_TRAINER_IMAGE and its like go first.
    """
    from rich.console import Console

    from vita_train.console import show_checks
    from vita_train.pipeline.compiled import serving_pipeline
    from vita_train.pipeline.server import PipelineServer
    from vita_train.preflight.run import check_before_submission
    from vita_train.recipe.check import check_recipe
    from vita_train.recipe.load import dump_recipe, load_recipe
    from vita_train.recipe.presets import preset_names
    from vita_train.recipe.selection import Selection
    from vita_train.runs.dated import dated
    from vita_train.runs.run import Run

    overrides = [*(settings or []), *([f"storage.root={storage}"] if storage else [])]
    resolved = load_recipe(recipe, overrides)
    check_recipe(resolved)
    selection = Selection.parse(resolved, only, since, until, force)
    if check:
        outcome = check_before_submission(resolved, selection, gpu=gpu)
        show_checks(outcome, Console(stderr=True))
    name = Run(resolved, dated(run, datetime.now(UTC))).name
    server = PipelineServer(endpoint, namespace)
    if not pipeline:
        _provide(server, resolved)
    shipped = recipe in preset_names()
    started = server.start(
        pipeline or serving_pipeline(resolved),
        {
            "recipe": recipe if shipped else dump_recipe(resolved),
            "run": name,
            "storage_root": storage,
            "overrides": settings or [] if shipped else [],
            "steps": Selection.written(only, since, until),
            "force": force,
        },
        name=name,
        experiment=experiment,
        service_account=service_account,
    )
    typer.echo(server.page(started))


def _provide(server: PipelineServer, recipe: schema.Recipe) -> None:
    """See to it that the server has the pipeline that runs a recipe."""
    import tempfile

    from vita_train.pipeline.compiled import LADDER_PIPELINE, compile_pipeline, serving_pipeline

    name = serving_pipeline(recipe)
    if name == LADDER_PIPELINE and server.has(
        name
    ):  # a platform engineer's, compiled for this cluster
        return
    with tempfile.TemporaryDirectory() as scratch:
        version = server.upload(
            compile_pipeline(recipe, Path(scratch), server.settings(LADDER_PIPELINE))
        )
    typer.echo(f"pipeline {name}: version {version}", err=True)
