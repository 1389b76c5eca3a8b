"""``vita-train run``, and ``launch`` of a single stage."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from vita_train.errors import COMMAND

if TYPE_CHECKING:
    from vita_train.runs import run as runs

Recipe = Annotated[
    str,
    typer.Argument(help="Name of a shipped recipe, or path of a YAML file.", show_default=False),
]
RunName = Annotated[
    str,
    typer.Option(
        "--run",
        help="Name of the run; the recipe's when not given. {date} and {time} are filled in.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
]
Only = Annotated[
    str, typer.Option(help="Do this step alone (several with commas).", show_default=False)
]
Since = Annotated[
    str, typer.Option("--from", help="Do this step and all that wait for it.", show_default=False)
]
Until = Annotated[
    str, typer.Option(help="Do this step and all that it waits for.", show_default=False)
]
Extend = Annotated[
    list[str] | None,
    typer.Option(
        "--extend",
        metavar="STAGE=STEPS",
        help="Train a stage longer, from its last checkpoint; the run remembers it.",
    ),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        "--accept",
        metavar="STAGE",
        help="Go on although this stage missed a gate; the run and its report remember it.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Do the chosen steps again even if committed.")
]
Gpu = Annotated[
    str,
    typer.Option(
        help="GPU of the recipe's nodes, its memory in GB at the end: h100-80; in place of "
        "this machine's memory.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("launch")(launch)


def run(
    recipe: Recipe,
    run: RunName = "",
    settings: Set = None,
    only: Only = "",
    since: Since = "",
    until: Until = "",
    force: Force = False,
    extend: Extend = None,
    accept: Accept = None,
) -> None:
    """Run the whole pipeline on this machine, or a part of it. What is committed already is not
    done again."""
    from rich.console import Console

    from vita_train.console import show_checks
    from vita_train.pipeline.local.ending import show_ending
    from vita_train.pipeline.local.run import run_pipeline
    from vita_train.preflight.run import check_all
    from vita_train.recipe.extension import extended
    from vita_train.recipe.load import load_recipe
    from vita_train.recipe.selection import Selection
    from vita_train.runs.dated import dated
    from vita_train.runs.run import Run

    console = Console()
    name = dated(run, datetime.now(UTC))
    before = Run(load_recipe(recipe, settings or []), name).remembered()
    opened = Run(extended(before.recipe, extend or [], accept or []), before.name)
    selection = Selection.parse(opened.recipe, only, since, until, force)
    os.environ[COMMAND] = _command(recipe, name, settings or [])
    show_checks(check_all(opened, selection), console)
    run_pipeline(opened, selection, console)
    show_ending(opened, console)


def _command(recipe: str, run: str, settings: list[str]) -> str:
    """Return the command that runs the whole pipeline of this run, to be pasted with further
    options."""
    from vita_train.pipeline.local.ending import program

    words = [program(), "run", recipe, *(["--run", run] if run else [])]
    return shlex.join([*words, *(word for setting in settings for word in ("--set", setting))])


def launch(
    recipe: Recipe,
    stage: Annotated[str, typer.Option(help="Name of the stage, or an alias.")],
    run: RunName = "",
    settings: Set = None,
    backend: Annotated[
        str,
        typer.Option(
            help="Job backend: local, kubernetes, trainjob, pytorchjob, slurm or a plugin's; as "
            "the recipe says when not given.",
            show_default=False,
        ),
    ] = "",
    nnodes: Annotated[
        int, typer.Option(min=1, help="Machines, when each is started by hand with this command.")
    ] = 1,
    node_rank: Annotated[
        int | None,
        typer.Option(
            help="Number of this machine, from 0; INDEX when not given.", show_default=False
        ),
    ] = None,
    master_addr: Annotated[
        str,
        typer.Option(help="Address of machine 0; MASTER_ADDR when not given.", show_default=False),
    ] = "",
    master_port: Annotated[
        int | None,
        typer.Option(help="Port on it; MASTER_PORT, or 29500, when not given.", show_default=False),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            help="Preset of network variables: public, those of the public launch scripts.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Run one stage as a job and print the manifest it committed. With --nnodes, one machine's part
    of it."""
    from vita_train.launch.backend import stage_job
    from vita_train.launch.local import LocalBackend
    from vita_train.launch.nodes import nodes_by_hand
    from vita_train.launch.stage import complete, finish
    from vita_train.recipe.aliases import stage_name
    from vita_train.recipe.load import load_recipe
    from vita_train.runs.run import Run

    by_hand = [f"launch.nodes={nnodes}", "launch.backend=local"] if nnodes > 1 else []
    chosen = [f"launch.backend={backend}"] if backend else []
    opened = Run(load_recipe(recipe, [*(settings or []), *chosen, *by_hand]), run).remembered()
    step = stage_name(stage, opened.recipe.stages)
    if nnodes > 1:
        nodes = nodes_by_hand(nnodes, node_rank, master_addr, master_port)
        machine, job = LocalBackend(nodes, network), stage_job(opened, step, digest="")
        if nodes.rank > 0:
            complete(machine, job, leads=False)
            typer.echo(
                f"stage {step}: the ranks of machine {nodes.rank} are done; machine 0 commits the "
                f"stage"
            )
        else:
            typer.echo(finish(machine, job).model_dump_json(indent=1))
        return
    opened.write_recipe()
    run_stage_of(opened, step)


def run_stage_of(run: runs.Run, stage: str) -> None:
    """Run one stage of a run as a job and print the manifest it committed."""
    from vita_train.pipeline.steps import train_step
    from vita_train.recipe.selection import Selection

    manifest = train_step(run, stage, Selection(frozenset({stage})))
    assert manifest is not None  # the stage is in the recipe and was asked for
    typer.echo(manifest.model_dump_json(indent=1))
