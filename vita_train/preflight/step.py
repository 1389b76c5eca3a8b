"""The preflight as a step of the pipeline: between the prepared data and the first stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from vita_train.console import Check, Found, check, show_checks
from vita_train.launch.stage import backend_of
from vita_train.pipeline.step_commit import run_step
from vita_train.pipeline.step_inputs import lineage_of, require_manifest, step_inputs
from vita_train.pipeline.steps import ALL
from vita_train.pipeline.summary import checks_summary
from vita_train.preflight.coverage import corpus_coverage, try_batches
from vita_train.preflight.packages import check_packages
from vita_train.preflight.rates import rate_warnings
from vita_train.preflight.sources import check_sources
from vita_train.recipe.check import check_recipe
from vita_train.recipe.platform import load_platform
from vita_train.recipe.selection import Selection
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run
from vita_train.storage.disk_errors import machine_faults

STEP = "preflight"


def preflight_step(
    run: Run, selection: Selection = ALL, page: str | Path | None = None
) -> Manifest | None:
    """Hold the prepared data and the recipe against each other before a stage trains.

    Args:
        run, selection: what.
        page: file that gets the outcome of every check as Markdown, also where one fails.

    Raises:
        UserError: a check failed; all of them are printed.
    """

    def work(digest: str) -> Manifest:
        prepared = require_manifest(run, "prepare", by=STEP)
        checks = check_prepared(run)
        if page is not None:
            Path(page).write_text(checks_summary(run.name, checks), encoding="utf-8")
        show_checks(checks, Console(stderr=True), always=True)
        warnings = [f"{each.name}: {warning}" for each in checks for warning in each.warnings]
        return Manifest(
            kind="preflight",
            run=run.name,
            stage=STEP,
            digest=digest,
            metrics={"checks": float(len(checks)), "warnings": float(len(warnings))},
            lineage={**lineage_of(run.recipe, {"prepare": prepared}), "warnings": warnings},
        )

    return run_step(run, STEP, selection, lambda: step_inputs(run, STEP), work)


def check_prepared(run: Run) -> list[Check]:
    """Return the outcome of every check that can be made once the data are prepared, on the machine
    that makes it: in a pod of the trainer's image, the one that the jobs have."""
    from vita_train.data.index.corpus import open_corpus

    recipe = run.recipe
    trains_here = backend_of(recipe).here or load_platform() is not None

    def stated() -> Found:
        check_recipe(recipe)
        return Found(f"{recipe.name}, {len(recipe.stages)} stages", rate_warnings(recipe))

    checks: list[tuple[str, Callable[[], str | Found]]] = [
        ("recipe", stated),
        ("packages", lambda: check_packages(recipe, here=trains_here)),
        ("pretrained", lambda: check_sources(recipe, ask_hub=True)),
        ("supervision", lambda: corpus_coverage(recipe, open_corpus(run))),
        *(
            [("dry batches", lambda: try_batches(run))]
            if recipe.launch.dry_batches and recipe.stages
            else []
        ),
    ]
    return [check(name, machine_faults()(work)) for name, work in checks]


def publish_page(manifest: Manifest | None, page: Any) -> None:
    """Fill the page in of a preflight that was not made now.

    Args:
        manifest: what it committed; None where it was not asked for.
        page: KFP Markdown artifact.
    """
    path = Path(page.path)
    if path.exists():
        return
    if manifest is None:
        path.write_text("Not asked for.\n", encoding="utf-8")
        return
    warnings = manifest.lineage.get("warnings", [])
    path.write_text(
        "\n".join(["Passed before.", "", *(f"- {warning}" for warning in warnings), ""]),
        encoding="utf-8",
    )
