"""``vita-train model import``: someone else's checkpoint as weights that a recipe can start
from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vita_train.weights.formats.import_report import ImportReport

#: Tensors shown one by one for each reason; the ledger has all.
_MOST_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import")(import_)


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="Directory of a checkpoint or an adapter, or a .bin or .pt file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write.", show_default=False)],
    recipe: Annotated[
        str, typer.Option(help="Recipe whose model the weights are for.")
    ] = "vita-1.5-7b",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="How the source names its tensors; recognised when not given.", show_default=False
        ),
    ] = "",
    modules: Annotated[
        str,
        typer.Option(
            help="Modules to import, with commas between; all that are there when not given.",
            show_default=False,
        ),
    ] = "",
    base: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the weights that a LoRA adapter belongs to.", show_default=False
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            help="What stands before the names that count, such as language_model.; "
            "other tensors are left out.",
            show_default=False,
        ),
    ] = "",
    accept_licence: Annotated[
        bool,
        typer.Option(
            "--accept-licence", help="Accept the terms of weights that are not free; asked once."
        ),
    ] = False,
) -> None:
    """Turn a released or intermediate checkpoint into modules for a recipe's weights, and account
    for every tensor."""
    from vita_train.recipe.load import load_recipe
    from vita_train.weights.formats.importing import plan_import, write_import
    from vita_train.weights.formats.source import open_source
    from vita_train.weights.formats.terms import accept_terms

    loaded = load_recipe(recipe, settings or [])
    names = [name.strip() for name in modules.split(",") if name.strip()]
    opened = open_source(source, layout, base, prefix, names)
    accept_terms(opened.terms, accepted=accept_licence)
    plan = plan_import(opened, loaded.model, names, loaded.data.audio)
    _show(plan.report)
    if plan.report.faults or plan.report.problems:
        path = out.with_name(f"{out.name}.ledger.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        plan.report.write(path)
        typer.echo(f"nothing was imported; every tensor is in {path}", err=True)
    summary = write_import(plan, out)
    size = sum(entry["bytes"] for entry in summary["files"].values())
    typer.echo(
        f"{out}: {len(summary['files'])} files, {size / 1e6:.1f} MB; every tensor is in "
        f"{out / 'ledger.json'}"
    )
    typer.echo("to start from them, set in the recipe")
    for name in summary["modules"]:
        typer.echo(f"  weights.{name}={out.absolute()}")


def _show(report: ImportReport) -> None:
    """Print how many tensors of each module were taken, and those that were not, with the
    reason."""
    from rich.console import Console
    from rich.table import Table

    from vita_train.weights.formats.import_report import STATUSES, shown

    console = Console()
    counts = report.counts()
    statuses = [
        status for status in STATUSES if any(status in counted for counted in counts.values())
    ]
    table = Table(
        "module", *statuses, title=f"{report.layout}: {report.source}", title_justify="left"
    )
    for module, counted in counts.items():
        table.add_row(module, *(str(counted.get(status, "")) for status in statuses))
    console.print(table)
    for status in [status for status in statuses if status not in ("used", "renamed")]:
        rows = [row for row in report.rows if row.status == status]
        for row in rows[:_MOST_SHOWN]:
            console.print(
                f"{status}: {shown(row.theirs)}" + (f" ({row.detail})" if row.detail else ""),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if len(rows) > _MOST_SHOWN:
            console.print(f"{status}: and {len(rows) - _MOST_SHOWN} more", highlight=False)
    for note in [*report.notes, *report.problems]:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
