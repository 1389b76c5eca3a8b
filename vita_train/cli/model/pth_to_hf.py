"""``vita-train model pth_to_hf``: AuroraCap's conversion under its name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_train.cli.model.export import export

#: ``--save-format`` and the layout it is.
_FORMATS = {"xtuner": "xtuner", "official": "llava", "huggingface": "llava-hf"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pth_to_hf")(pth_to_hf)


def pth_to_hf(
    config: Annotated[
        str,
        typer.Argument(help="Recipe that was trained, by name or path.", show_default=False),
    ],
    pth: Annotated[
        str, typer.Argument(help="Run directory or URI, <storage.root>/<run>.", show_default=False)
    ],
    save: Annotated[Path, typer.Argument(help="Directory to write.", show_default=False)],
    save_format: Annotated[
        str,
        typer.Option(
            help="xtuner (its folders), official (LLaVA's repository) or huggingface "
            "(transformers' LLaVA classes)."
        ),
    ] = "xtuner",
    safe_serialization: Annotated[
        bool,
        typer.Option(
            "--safe-serialization", help="safetensors; pickles are never written, with or without."
        ),
    ] = False,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "2GB",
    fp32: Annotated[
        bool, typer.Option("--fp32", help="Write parameters as float32, not in the recipe's type.")
    ] = False,
) -> None:
    """Write the vision-language half of a run in one of AuroraCap's three formats; the same as
    `vita-train model export --to`."""
    from vita_train.errors import UserError
    from vita_train.recipe.load import load_recipe
    from vita_train.runs.run import Run

    if save_format not in _FORMATS:
        raise UserError(
            f"unknown format {save_format!r}",
            code="VT-USE-282",
            where="--save-format",
            remedy=f"formats are {', '.join(_FORMATS)}",
        )
    asked, trained = load_recipe(config).name, Run.open(pth).recipe.name
    if asked != trained:
        raise UserError(
            f"the run was trained by recipe {trained}, not by {asked}",
            code="VT-USE-283",
            where=pth,
            remedy="give the recipe of this run, or another run",
        )
    export(pth, save, _FORMATS[save_format], max_shard_size, fp32)
