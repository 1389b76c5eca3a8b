"""``vita-train model``: weights in, out and measured. Each command is a module of this folder."""

from __future__ import annotations

from importlib import import_module

import typer

#: Modules of this package in the order their commands are listed.
COMMANDS: tuple[str, ...] = (
    "importing",
    "export",
    "merge_lora",
    "evaluate",
    "captions",
    "pth_to_hf",
)


def register(app: typer.Typer) -> None:
    """Add the ``model`` group."""
    group = typer.Typer(help="Import, export, merge and evaluate weights.", no_args_is_help=True)
    for name in COMMANDS:
        import_module(f"{__name__}.{name}").register(group)
    app.add_typer(group, name="model")
