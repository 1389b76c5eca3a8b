"""What a step hands to the page of Kubeflow Pipelines: a handful of measures, and a summary to
read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vita_train.console import Check
from vita_train.evaluation.gates import gate_results
from vita_train.recipe.schema import Recipe
from vita_train.runs.manifest import Manifest

#: Measures of a step that has no gates; the page compares runs in a column for each.
_MOST = 6


def headline(recipe: Recipe, manifest: Manifest) -> dict[str, float]:
    """Return the measures of a step that the page shows; all of them are in manifest and report.

    Of a stage those that its gates ask for, and its dev loss; of another step the gated measures of
    all stages where it has them, else the first.
    """
    spec = recipe.stages.get(manifest.stage)
    wanted = (
        [*spec.gates, "dev.loss"]
        if spec
        else [name for stage in recipe.stages.values() for name in stage.gates]
    )
    found = {name: manifest.metrics[name] for name in wanted if name in manifest.metrics}
    return found or dict(sorted(manifest.metrics.items())[:_MOST])


def stage_summary(recipe: Recipe, manifest: Manifest, folder: str) -> str:
    """Return a stage in Markdown: what trained, its measures against their gates, time and place.

    Args:
        recipe: that the stage is of.
        manifest: what it committed.
        folder: URI of the run.
    """
    spec, lineage = recipe.stages[manifest.stage], manifest.lineage
    samples = lineage.get("samples", {})
    seconds, world = float(lineage.get("seconds", 0.0)), int(lineage.get("world", 1))
    lost = len(lineage.get("unreadable", {}))
    lines = [
        f"## {manifest.stage} {spec.title}",
        "",
        f"Run **{manifest.run}**, {samples.get('steps', 0)} steps over "
        f"{samples.get('count', 0):,} samples and {lineage.get('tokens', 0):,} tokens"
        + (f"; {lost} samples could not be read." if lost else "."),
        "",
        *_table(("trained", "parameters"), _counts(lineage.get("trained", {}))),
    ]
    if results := gate_results(spec, manifest.metrics):
        rows = [
            (
                result.measure,
                "not measured" if result.value is None else f"{result.value:.4g}",
                result.bound,
                "met" if result.met else "**missed, accepted**",
            )
            for result in results
        ]
        lines += _table(("gate", "reached", "bound", ""), rows)
    elif manifest.metrics:
        measures = headline(recipe, manifest)
        lines += _table(
            ("measure", "reached"), [(name, f"{value:.4g}") for name, value in measures.items()]
        )
    lines += [
        f"{_hours(seconds)} of training on {world} ranks, {_hours(seconds * world)} of ranks "
        f"together; {lineage.get('restarts', 0)} restarts.",
        "",
        f"Weights: `{folder}/{manifest.stage}`. All measures: step *report*, or "
        f"`{folder}/report/report.html`.",
        "",
    ]
    return "\n".join(lines)


def checks_summary(run: str, checks: Sequence[Check]) -> str:
    """Return the outcome of a preflight in Markdown: a verdict, and every check."""
    failed = [each.name for each in checks if not each.ok]
    verdict = f"**refused: {', '.join(failed)}**" if failed else "passed"
    rows = [
        (each.name, "yes" if each.ok else "**no**", " ".join(each.detail.split()).replace("|", "/"))
        for each in checks
    ]
    lines = [f"## Preflight of run {run}: {verdict}", "", *_table(("check", "passed", ""), rows)]
    lines += [f"- {each.name}: {warning}" for each in checks for warning in each.warnings]
    return "\n".join([*lines, ""])


def _counts(trained: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in trained.items()]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    return [
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
