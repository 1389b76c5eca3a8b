"""The steps of the pipeline: each is a function of a run that returns the manifest it committed.

A step that is done already (``final.json`` with the same digest) returns at once. One whose inputs
changed is done again. KFP components call these functions and nothing else. Nothing here imports
torch before there is work for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vita_train.errors import RecipeError
from vita_train.launch.stage import launch_stage
from vita_train.pipeline.fan_out import shared_out
from vita_train.pipeline.step_commit import run_step
from vita_train.pipeline.step_inputs import (
    dataset_digests,
    lineage_of,
    require_manifest,
    stage_manifests,
    step_inputs,
)
from vita_train.pipeline.summary import headline, stage_summary
from vita_train.recipe.graph import uncovered
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import Selection, stage_graph
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run
from vita_train.storage.base import FileRef
from vita_train.storage.digest import sha256_file
from vita_train.storage.factory import open_file
from vita_train.storage.tar_shards import publish_tree

ALL = Selection()


def check_pipeline(recipe: Recipe, stages: str) -> None:
    """Refuse a recipe that the compiled pipeline cannot run. Its first step calls this.

    Args:
        recipe: what the run was started with.
        stages: the pipeline's stages as JSON, with those that each waits for.

    Raises:
        RecipeError: a stage is missing in the pipeline, or would start too early.
    """
    if problems := uncovered(json.loads(stages), stage_graph(recipe)):
        raise RecipeError(
            f"this pipeline was compiled for another recipe: {'; '.join(problems)}",
            code="VT-RECIPE-024",
            where=recipe.name,
            remedy="vita-train submit compiles, uploads and starts the right one; by hand: "
            "python pipelines/compile.py --recipe FILE, then vita-train cluster upload",
        )


def fetch_step(run: Run, selection: Selection = ALL) -> Manifest | None:
    """Get the raw data of the recipe's sources into ``data_fetch/raw``, with its
    ``registry.json``."""

    def work(digest: str) -> Manifest:
        from vita_train.data.sources.fetch import fetch_all

        raw = run.raw_dir
        raw.mkdir(parents=True, exist_ok=True)
        registry = fetch_all(run.recipe.data.source, raw, seed=run.recipe.seed)
        counts = {
            "datasets": float(len(registry.datasets)),
            "splits": float(sum(len(dataset.splits) for dataset in registry.datasets.values())),
        }
        return Manifest(
            kind="data",
            run=run.name,
            stage="data_fetch",
            digest=digest,
            metrics=counts,
            files={
                "registry": _stored(run, raw / "registry.json", "data_fetch", "registry.json"),
                **_published(run, "data_fetch", raw),
            },
            lineage=lineage_of(run.recipe, {}),
        )

    return _once(run, "data_fetch", selection, work)


def prepare_step(run: Run, selection: Selection = ALL) -> Manifest | None:
    """Check every record and prepare the corpus in ``prepare/corpus``: tokens, labels, lengths,
    features."""

    def work(digest: str) -> Manifest:
        from vita_train.data.prepare.reuse import take_prepared
        from vita_train.data.prepare.run import prepare

        out = run.corpus_dir
        fetched = require_manifest(run, "data_fetch", by="prepare")
        if run.recipe.data.prepared:
            ledger = take_prepared(run.recipe, Path(run.recipe.data.prepared), out)
        else:
            ledger = prepare(
                run.recipe,
                run.present_raw() / "registry.json",
                out,
                workers=os.cpu_count() or 1,
                force=selection.force,
                exchange=shared_out(run, digest, force=selection.force),
            )
        media = _packed(run)
        counts = {"records": ledger.records, "used": ledger.used, "rejected": ledger.rejected}
        return Manifest(
            kind="prepared",
            run=run.name,
            stage="prepare",
            digest=digest,
            metrics={name: float(count) for name, count in counts.items()},
            files={
                "ledger": _stored(run, out / "ledger.json", "prepare", "ledger.json"),
                **media,
                **_published(run, "prepare", out),
            },
            lineage={
                **lineage_of(run.recipe, {"data_fetch": fetched}),
                "content": dataset_digests(run.recipe, ledger, out, fetched),
            },
        )

    return _once(run, "prepare", selection, work)


def train_step(
    run: Run, stage: str, selection: Selection = ALL, task: Any = None
) -> Manifest | None:
    """Train one stage as a torchrun job. A stage that the recipe does not have is passed over: the
    shipped pipelines serve every recipe that has some of their stages.

    Args:
        run, stage, selection: what.
        task: KFP's ``TaskConfig``: what was set on the task, for the job's pods.
    """
    if stage not in run.recipe.stages:
        return None

    return _once(run, stage, selection, lambda digest: launch_stage(run, stage, digest, task))


def evaluate_step(run: Run, selection: Selection = ALL) -> Manifest | None:
    """Measure the finished model on every held-out slice."""

    def work(digest: str) -> Manifest:
        _use_threads(run.recipe)
        from vita_train.evaluation.run import evaluate_run

        metrics = evaluate_run(run)
        return Manifest(
            kind="evaluation",
            run=run.name,
            stage="evaluate",
            digest=digest,
            metrics=metrics,
            lineage=lineage_of(run.recipe, stage_manifests(run, "evaluate")),
        )

    return _once(run, "evaluate", selection, work)


def export_step(run: Run, selection: Selection = ALL) -> Manifest | None:
    """Write the finished model into ``export/model``, load it back and compare before it is
    committed."""

    def work(digest: str) -> Manifest:
        _use_threads(run.recipe)
        from vita_train.weights.export import export_run

        files = export_run(run, run.dir / "export" / "model")
        return Manifest(
            kind="export",
            run=run.name,
            stage="export",
            digest=digest,
            files={path.name: _stored(run, path, "export", "model", path.name) for path in files},
            lineage=lineage_of(run.recipe, stage_manifests(run, "export")),
        )

    return _once(run, "export", selection, work)


def report_step(run: Run, selection: Selection = ALL) -> Manifest | None:
    """Render the run as one HTML page, ``report/report.html``: finished or not, it shows how far
    the run came."""

    def work(digest: str) -> Manifest:
        from vita_train.report.render import render_report

        page = render_report(run.dir, store=None if run.is_local else run.own_store())
        return Manifest(
            kind="report",
            run=run.name,
            stage="report",
            digest=digest,
            files={"report": _stored(run, page, "report", "report.html")},
            lineage=lineage_of(run.recipe, {}),
        )

    return _once(run, "report", selection, work)


def publish(
    run: Run, manifest: Manifest | None, artifact: Any, metrics: Any = None, summary: Any = None
) -> None:
    """Hand a step's manifest to KFP: as the artifact's payload, with its digest beside it, its
    headline measures, and what there is to read.

    Args:
        run: of which.
        manifest: what the step committed; None for a step that was not asked for.
        artifact: KFP output artifact.
        metrics: KFP metrics artifact, if the component has one.
        summary: KFP Markdown artifact, if the component has one.
    """
    Path(artifact.path).write_text(
        manifest.model_dump_json(indent=1) if manifest else "null", encoding="utf-8"
    )
    if summary is not None:
        text = stage_summary(run.recipe, manifest, run.uri()) if manifest else "Not asked for.\n"
        Path(summary.path).write_text(text, encoding="utf-8")
    if manifest is None:
        artifact.metadata["state"] = "not asked for"
        return
    artifact.metadata.update(
        {
            "state": "committed",
            "kind": manifest.kind,
            "step": manifest.stage,
            "run": manifest.run,
            "digest": manifest.digest,
        }
    )
    if metrics is not None:
        for name, value in headline(run.recipe, manifest).items():
            metrics.log_metric(name, value)


def publish_page(run: Run, manifest: Manifest | None, page: Any) -> None:
    """Hand the report to KFP as an HTML artifact."""
    text = b"<p>The report was not asked for.</p>"
    if manifest is not None:  # read from the store: another machine may have rendered it
        store, key = open_file(manifest.files["report"].uri, endpoint=run.recipe.storage.endpoint)
        text = store.read(key)
    Path(page.path).write_bytes(text)


def publish_samples(run: Run, manifest: Manifest | None, page: Any) -> None:
    """Hand the samples of an evaluation to KFP as an HTML artifact."""
    text = "<p>The evaluation was not asked for.</p>"
    if manifest is not None:
        from vita_train.report.samples import build_sheet

        text = build_sheet(run.own_store())
    Path(page.path).write_text(text, encoding="utf-8")


def _once(
    run: Run, step: str, selection: Selection, work: Callable[[str], Manifest]
) -> Manifest | None:
    return run_step(run, step, selection, lambda: step_inputs(run, step), work)


def _use_threads(recipe: Recipe) -> None:
    """Give this one process the threads that a stage's processes have together. torch reads it when
    imported."""
    os.environ["OMP_NUM_THREADS"] = str(recipe.launch.nproc * recipe.launch.threads)


def _file(path: Path) -> FileRef:
    return FileRef(uri=str(path), sha256=sha256_file(path), bytes=path.stat().st_size)


def _stored(run: Run, path: Path, *parts: str) -> FileRef:
    """Put a step's result into the run's store, unless that is where it lies already."""
    return _file(path) if run.is_local else run.store.upload(path, run.key(*parts))


def _packed(run: Run) -> dict[str, FileRef]:
    """Pack the media of the prepared corpus, if the recipe wants them so."""
    if run.recipe.storage.media != "shards":
        return {}
    from vita_train.data.packing.media import pack_media

    return pack_media(run.corpus_dir, run.store, run.key("prepare", "media"))


def _published(run: Run, step: str, folder: Path) -> dict[str, FileRef]:
    """Store a step's folder for the other machines of a run; nothing to do where the store is this
    machine."""
    return {} if run.is_local else publish_tree(folder, run.store, run.key(step, "shards"))
