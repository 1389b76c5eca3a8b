"""``vita-train submit``: a run on a Kubeflow Pipelines server, from the shell."""

from __future__ import annotations

from typing import Annotated

import typer

from vita_train.cli.run.run import Force, Only, Recipe, Run, Set, Since, Until

Endpoint = Annotated[str, typer.Option(envvar="KFP_ENDPOINT", help="URL of the server.", show_default=False)]
Namespace = Annotated[str, typer.Option(help="Namespace on a multi-user installation.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("submit")(submit)


def submit(
    recipe: Recipe,
    endpoint: Endpoint,
    run: Run = "",
    settings: Set = None,
    only: Only = "",
    since: Since = "",
    until: Until = "",
    force: Force = False,
    storage: Annotated[str, typer.Option(help="s3:// URI under which runs lie; the recipe's when not given.",
                                         show_default=False)] = "",
    pipeline: Annotated[str, typer.Option(help="Name of the pipeline on the server.")] = "vita-train-ladder",
    experiment: Annotated[str, typer.Option(help="What the run is listed under.")] = "vita-train",
    service_account: Annotated[str, typer.Option(help="Account of the steps; the server's default when not given.",
                                                 show_default=False)] = "",
    namespace: Namespace = "",
) -> None:
    """Start a run on a server. The recipe is checked here first, and travels with the run."""
    from vita_train.pipeline.server import PipelineServer
    from vita_train.recipe.load import dump_recipe, load_recipe
    from vita_train.recipe.presets import preset_names
    from vita_train.recipe.selection import Selection
    from vita_train.runs.paths import run_name

    overrides = [*(settings or []), *([f"storage.root={storage}"] if storage else [])]
    resolved = load_recipe(recipe, overrides)
    Selection.parse(only, since, until, force)
    name = run_name(resolved, run)
    shipped = recipe in preset_names()
    watch = PipelineServer(endpoint, namespace).submit(pipeline, {
        "recipe": recipe if shipped else dump_recipe(resolved), "run": name, "storage_root": storage,
        "overrides": settings or [] if shipped else [], "only": only, "from_step": since, "until_step": until,
        "force": force}, name=name, experiment=experiment, service_account=service_account)
    typer.echo(watch)
