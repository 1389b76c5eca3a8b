"""From each weight back to the stage, the recipe, the rows and the code it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vita_train.recipe.modules import MODULES
from vita_train.report.collect import RunView
from vita_train.report.words import DEFAULT_COLOUR, MODULE_WORDS


@dataclass(frozen=True)
class LineageRow:
    """The newest weights of one module."""

    module: str
    title: str
    stage: str
    group: str
    bytes: int
    files: tuple[tuple[str, str], ...]
    """(URI, sha256) of each file."""
    facts: tuple[tuple[str, str], ...]
    """Digests and counts of the stage that trained it, named."""


def lineage_rows(run: RunView) -> list[LineageRow]:
    """Return the newest weights of every module any finished stage names."""
    newest: dict[str, tuple[str, Any]] = {}
    for stage in run.stages:
        if stage.manifest:
            for name, ref in stage.manifest.modules.items():
                newest[name] = (ref.stage, ref)
    by_name = {stage.name: stage for stage in run.stages}
    rows = []
    for name in [name for name in MODULES if name in newest]:
        trained_by, ref = newest[name]
        origin = by_name.get(trained_by)
        facts: dict[str, Any] = {}
        if origin and origin.manifest:
            facts = {"stage digest": origin.manifest.digest, **origin.lineage}
        rows.append(
            LineageRow(
                name,
                MODULE_WORDS[name],
                trained_by,
                origin.colour if origin else DEFAULT_COLOUR,
                sum(file.bytes for file in ref.files),
                tuple((file.uri, file.sha256) for file in ref.files),
                tuple((key.replace("_", " "), _short(value)) for key, value in facts.items()),
            )
        )
    return rows


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return _joined([f"{key}: {_short(item)}" for key, item in value.items()], most=32)
    if isinstance(value, list | tuple):
        return _joined([_short(item) for item in value], most=8)
    return str(value)


def _joined(items: list[str], *, most: int) -> str:
    shown = ", ".join(items[:most])
    return f"{shown}, … ({len(items)} in all)" if len(items) > most else shown
