"""The command line: one verb per module of this package, and one place where errors become
messages.

Each module named in `COMMANDS` has ``register(app)``, which adds its commands. Those modules import
nothing heavy at the top, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from vita_train import __version__
from vita_train.errors import EXIT_FAILED, VitaError
from vita_train.printable import printable

#: Modules of `vita_train.cli` in the order their commands are listed.
COMMANDS: tuple[str, ...] = (
    "run.run",
    "run.preflight",
    "run.plan",
    "run.train",
    "run.submit",
    "run.report",
    "model.chat",
    "run.stage",
    "run.recipe",
    "data",
    "model",
    "cluster",
)


class _Commands(TyperGroup):
    """The group of all commands. What is raised in them reaches `main`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except EOFError as error:  # click would take it for Ctrl-D, and say "Aborted." and no more
            raise RuntimeError(f"EOFError: {error}") from error


def build_app() -> typer.Typer:
    """Return the application with every command registered."""
    app = typer.Typer(
        name="vita-train",
        cls=_Commands,
        help="Train a VITA-1.5-class omni model, stage by stage, on a laptop or a Kubeflow "
        "cluster.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False,
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ) -> None:
        pass

    for name in COMMANDS:
        import_module(f"vita_train.cli.{name}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; every way it can end is one exit code of `vita_train.errors`."""
    try:
        build_app()()
    except VitaError as error:
        sys.exit(_show(error))
    except Exception as error:  # the last resort: a fault of ours, reported in one line
        from vita_train.storage.disk_errors import machine_fault

        fault = machine_fault(error)
        sys.exit(_show(fault) if fault else _show_unexpected(error))


def _show(error: VitaError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _show_unexpected(error: Exception) -> int:
    text = "".join(traceback.format_exception(error))
    reason = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {printable(reason[0])}" if reason else type(error).__name__
    try:
        place = f"the traceback is in {_write_log(text)}"
    except OSError:
        print(text, file=sys.stderr)
        place = "no log file could be written"
    print(f"error: this should not have happened: {line} ({place})", file=sys.stderr)
    return EXIT_FAILED


def _write_log(text: str) -> Path:
    """Write a traceback beside the cache, or in the temporary directory, and return its path."""
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    from vita_train.storage.host_cache import cache_dir

    home = cache_dir() / "logs"
    try:
        home.mkdir(parents=True, exist_ok=True)
        path = home / name
        path.write_text(text)
    except OSError:
        path = Path(tempfile.gettempdir()) / f"vita-train-{name}"
        path.write_text(text)
    return path


if __name__ == "__main__":
    main()
