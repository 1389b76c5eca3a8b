"""``vita-train cluster``: pipelines to a server, and what the chart's tests and its CronJob run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_train.cli.run.run import Recipe, Set
from vita_train.cli.run.submit import Endpoint, Namespace

group = typer.Typer(
    help="Compile and upload pipelines, check a namespace, delete orphaned jobs.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the ``cluster`` group."""
    app.add_typer(group, name="cluster")


@group.command()
def upload(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="What pipelines/compile.py wrote: files, or their folder.", show_default=False
        ),
    ],
    endpoint: Endpoint,
    namespace: Namespace = "",
) -> None:
    """Put compiled pipelines on a server, each as a new version if it differs from those that are
    there. Of a folder the one for all stages comes last: the page lists the newest first."""
    from vita_train.pipeline.server import PipelineServer

    server = PipelineServer(endpoint, namespace)
    for file in [
        inner for path in files for inner in (_compiled(path) if path.is_dir() else [path])
    ]:
        typer.echo(f"{file}: version {server.upload(file)}")


@group.command("compile")
def compile_recipe(
    recipe: Recipe,
    settings: Set = None,
    out: Annotated[Path, typer.Option(help="Folder of the compiled pipeline.")] = Path("pipelines"),
) -> None:
    """Compile the pipeline that runs a recipe. VITA_TRAIN_TRAINER_IMAGE and its like name the
    images, best by digest."""
    import tempfile

    from vita_train.pipeline.compiled import compile_pipeline
    from vita_train.recipe.check import check_recipe
    from vita_train.recipe.load import load_recipe
    from vita_train.storage.disk_errors import translate_os_errors

    resolved = load_recipe(recipe, settings or [])
    check_recipe(resolved)
    with tempfile.TemporaryDirectory(prefix="vita-train-") as scratch:
        made = compile_pipeline(resolved, Path(scratch), {})
        target = out / made.name
        with translate_os_errors(target):
            out.mkdir(parents=True, exist_ok=True)
            target.write_bytes(made.read_bytes())
    typer.echo(target)


def _compiled(folder: Path) -> list[Path]:
    """Return the pipelines of a folder, those of single stages first."""
    from vita_train.pipeline.compiled import LADDER

    return sorted(folder.glob("*.yaml"), key=lambda path: (path.stem == LADDER, path.name))


@group.command("check")
def check_cluster(
    stores: Annotated[
        list[str] | None,
        typer.Option(
            "--store", metavar="URI", help="Try to commit below it, such as s3://bucket/runs."
        ),
    ] = None,
    is_trial: Annotated[
        bool, typer.Option("--run-job", help="Also run a small job to its end.")
    ] = False,
    endpoint: Annotated[
        str,
        typer.Option(
            help="URL of a Kubeflow Pipelines server: also run the smallest run there to its end, "
            "and terminate another and see its job gone.",
            show_default=False,
        ),
    ] = "",
    namespace: Namespace = "",
    service_account: Annotated[
        str,
        typer.Option(
            help="Account of those runs' steps; the server's default when not given.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Check that training jobs can run in this namespace: settings, RBAC, kind of job, stores."""
    from rich.console import Console

    from vita_train.console import show_checks
    from vita_train.launch.kubernetes.api import Cluster
    from vita_train.pipeline.server import PipelineServer
    from vita_train.preflight import cluster as checks
    from vita_train.preflight.pipelines import check_pipelines
    from vita_train.recipe.platform import needed_platform

    platform = needed_platform("the cluster is to be checked", "cluster check")
    cluster = Cluster.connect(outage=platform.times.outage)
    made = checks.check_cluster(cluster, platform, stores or (), is_trial=is_trial, out=typer.echo)
    if endpoint:
        made += check_pipelines(
            PipelineServer(endpoint, namespace),
            lambda run: checks.jobs_of(cluster, platform, run),
            out=typer.echo,
            service_account=service_account,
        )
    show_checks(
        made,
        Console(),
        what="cluster check",
        always=True,
    )


@group.command()
def janitor(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    workflow: Annotated[
        float,
        typer.Option(min=0, help="Seconds after the end of its Workflow until a job is deleted."),
    ] = 600.0,
    terminated: Annotated[
        float,
        typer.Option(min=0, help="The same where a person terminated the run."),
    ] = 60.0,
    over: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds after its own end until a job is deleted, with its logs."
        ),
    ] = 86400.0,
    stores: Annotated[
        list[str] | None,
        typer.Option(
            "--store",
            metavar="URI",
            help="Remove unfinished uploads below it, such as s3://bucket/runs.",
        ),
    ] = None,
    unfinished: Annotated[
        float,
        typer.Option(
            min=3600,
            help="Seconds until an upload that began counts as left by a writer that died.",
        ),
    ] = 604800.0,
) -> None:
    """Delete training jobs that no launcher waits for any more, and uploads that nobody will
    finish."""
    from datetime import timedelta

    from vita_train.launch.kubernetes.api import Cluster, own_namespace
    from vita_train.launch.kubernetes.janitor import JobRetention, collect_garbage
    from vita_train.launch.kubernetes.kinds import served_kinds
    from vita_train.recipe.platform import needed_platform
    from vita_train.storage.factory import open_store

    platform = needed_platform("the janitor looks for jobs", "janitor")
    cluster = Cluster.connect(outage=platform.times.outage)
    number = collect_garbage(
        cluster,
        served_kinds(cluster.served()),
        platform.namespace or own_namespace(),
        own_namespace(),
        JobRetention(workflow, terminated, over),
        out=typer.echo,
        dry_run=dry_run,
    )
    done = "would be deleted" if dry_run else "deleted"
    typer.echo(f"{number} jobs {done}")
    for uri in stores or ():
        swept = open_store(uri).sweep(older_than=timedelta(seconds=unfinished), dry_run=dry_run)
        for key in swept:
            typer.echo(f"{uri}/{key}: an upload that was never finished; {done}")
        typer.echo(f"{uri}: {len(swept)} unfinished uploads {done}")
