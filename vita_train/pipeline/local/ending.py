"""What a finished run prints: what it scored, where its report lies, and how to talk to the
model."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vita_train.printable import printable_message
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import Gate
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run
from vita_train.storage.base import is_local, local_path


def show_ending(run: Run, console: Console) -> None:
    """Print the scores, the report's path and a chat command, as far as the run has them."""
    evaluation, exported, report = (run.final(step) for step in ("evaluate", "export", "report"))
    checked = run.final("preflight")
    for warning in checked.lineage.get("warnings", []) if checked else []:
        console.print("[yellow]![/] preflight: ", end="", highlight=False)
        console.print(printable_message(warning), markup=False, highlight=False, soft_wrap=True)
    if evaluation is not None:
        console.print()
        console.print(score_table(evaluation.metrics, last_gates(run.recipe)))
    console.print()
    if report is not None:
        console.print(
            f"report: {_short(report.files['report'].uri)}", soft_wrap=True, highlight=False
        )
    if exported is not None:
        console.print(f"chat:   {chat_command(exported)}", soft_wrap=True, highlight=False)
    if evaluation is None and report is None and exported is None:
        console.print(f"the run lies in {_short(str(run.dir))}", soft_wrap=True, highlight=False)


def score_table(metrics: Mapping[str, float], gates: Mapping[str, Gate]) -> Table:
    """Return the measures as a table, each with the bound the recipe sets for it."""
    table = Table("measure", "score", "wanted", box=None, padding=(0, 2), header_style="dim")
    table.columns[1].justify = "right"
    for name, value in sorted(metrics.items()):
        gate = gates.get(name)
        met = gate is None or (
            (gate.min is None or value >= gate.min) and (gate.max is None or value <= gate.max)
        )
        table.add_row(name, f"{value:.3f}", _bounds(gate), style=None if met else "red")
    return table


def last_gates(recipe: Recipe) -> dict[str, Gate]:
    """Return the gate of each measure; a later stage's replaces an earlier one's."""
    return {name: gate for stage in recipe.stages.values() for name, gate in stage.gates.items()}


def chat_command(exported: Manifest) -> str:
    """Return a line that talks to the exported model when pasted into the shell this was printed
    in."""
    folder = exported.files["export.json"].uri.removesuffix("/export.json")
    if not is_local(folder):  # chat reads exports from disk, runs from anywhere
        folder = folder.removesuffix("/export/model")
    return shlex.join([program(), "chat", "--checkpoint", _short(folder)])


def program() -> str:
    """Return how this shell can start vita-train: by name if that finds us, else by path."""
    ours = Path(sys.executable).with_name("vita-train")
    found = shutil.which("vita-train")
    if found and (not ours.exists() or Path(found).resolve() == ours.resolve()):
        return "vita-train"
    return _short(str(ours))


def _bounds(gate: Gate | None) -> str:
    if gate is None:
        return ""
    parts = [
        f">= {gate.min:g}" if gate.min is not None else "",
        f"<= {gate.max:g}" if gate.max is not None else "",
    ]
    return " and ".join(part for part in parts if part)


def _short(path: str) -> str:
    """Return a path relative to the current directory when it lies below it."""
    if not is_local(path):
        return path
    relative = os.path.relpath(local_path(path))
    return str(local_path(path)) if relative.startswith("..") else relative
