"""``vita-train janitor``: what the chart's CronJob runs in a namespace of training jobs."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("janitor")(janitor)


def janitor(
    is_rehearsal: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    workflow: Annotated[float, typer.Option(
        min=0, help="Seconds after the end of its Workflow until a job is deleted.")] = 600.0,
    over: Annotated[float, typer.Option(
        min=0, help="Seconds after its own end until a job is deleted, with its logs.")] = 86400.0,
) -> None:
    """Delete training jobs that no launcher waits for any more."""
    from vita_train.errors import UserError
    from vita_train.launch.cluster.api import Cluster, own_namespace
    from vita_train.launch.cluster.backend import served_backends
    from vita_train.launch.cluster.janitor import Patience, tidy
    from vita_train.recipe.platform import PLATFORM, load_platform

    platform = load_platform()
    if platform is None:
        raise UserError("nothing says what the cluster is like", where="janitor",
                        remedy=f"run it where the chart's ConfigMap is mounted, or let {PLATFORM} name its file")
    cluster = Cluster.connect(outage=platform.times.outage)
    number = tidy(cluster, served_backends(cluster.served()), platform.namespace or own_namespace(), own_namespace(),
                  Patience(workflow, over), out=typer.echo, is_rehearsal=is_rehearsal)
    typer.echo(f"{number} jobs {'would be deleted' if is_rehearsal else 'deleted'}")
