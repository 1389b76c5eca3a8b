"""The steps of the pipeline: each is a function of recipe and run that returns the manifest it committed.

A step that is done already (``final.json`` with the same digest) returns at once. One whose inputs changed is done
again. KFP components call these functions and nothing else. Nothing here imports torch before there is work for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vita_train.errors import RecipeError, UserError
from vita_train.launch.stage import launch_stage
from vita_train.pipeline.step_commit import STEP_DIGEST, commit_step
from vita_train.pipeline.step_inputs import (
    dataset_digests,
    digests_of,
    given_digests,
    last_progress,
    lineage_of,
    needed,
    recipe_digest,
    source_digests,
    sources_of,
    stage_manifests,
    template_text,
)
from vita_train.recipe.corpus import corpus_settings, data_settings
from vita_train.recipe.extension import remember
from vita_train.recipe.graph import uncovered
from vita_train.recipe.load import dump_recipe, load_recipe, parse_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import Selection, input_stages, stage_graph
from vita_train.runs.final import read_final
from vita_train.runs.manifest import Manifest, content_of
from vita_train.runs.paths import corpus_dir, present_corpus, present_raw, raw_dir, run_dir, run_name, store_of
from vita_train.runs.run import Run
from vita_train.storage.base import FileRef, is_local
from vita_train.storage.digest import sha256_file
from vita_train.storage.factory import open_file, open_store
from vita_train.storage.tar_shards import publish_tree

ALL = Selection()
#: Settings of a stage that change nothing it computes. What it starts after counts through its inputs.
_SHOWN = {"title", "group", "after"}


def open_run(recipe: str, run: str = "", storage_root: str = "", overrides: Sequence[str] = (), only: str = "",
             from_step: str = "", until_step: str = "", force: bool = False) -> tuple[Recipe, str, Selection]:
    """Resolve what a pipeline's parameters mean.

    Args:
        recipe: name of a shipped recipe, path, URI, or the YAML text itself.
        run: name of the run; empty takes the recipe's.
        storage_root: replaces the recipe's ``storage.root`` unless empty.
        overrides: ``key.path=value`` settings.
        only, from_step, until_step, force: see `Selection`.
    """
    settings = [*overrides, *([f"storage.root={storage_root}"] if storage_root else [])]
    resolved = load_recipe(_text_at(recipe) if "://" in recipe.partition("\n")[0] else recipe, settings)
    name = run_name(resolved, run)
    resolved = remembered(resolved, name)
    write_recipe(resolved, name)
    return resolved, name, Selection.parse(resolved, only, from_step, until_step, force)


def check_pipeline(recipe: Recipe, stages: str) -> None:
    """Refuse a recipe that the compiled pipeline cannot run. Its first step calls this.

    Args:
        recipe: what the run was started with.
        stages: the pipeline's stages as JSON, with those that each waits for.

    Raises:
        RecipeError: a stage is missing in the pipeline, or would start too early.
    """
    if problems := uncovered(json.loads(stages), stage_graph(recipe)):
        raise RecipeError(f"this pipeline was compiled for another recipe: {'; '.join(problems)}", where=recipe.name,
                          remedy="vita-train submit compiles, uploads and starts the right one; by hand: "
                                 "python pipelines/compile.py --recipe FILE, then vita-train upload")


def remembered(recipe: Recipe, run: str) -> Recipe:
    """Return the recipe with what earlier commands gave this run's stages: extensions and accepted gates."""
    store, key = store_of(recipe), f"{run}/recipe.yaml"
    if not store.exists(key):
        return recipe
    try:
        return remember(recipe, parse_recipe(store.read(key).decode(), key))
    except (UserError, UnicodeDecodeError):  # of another version: nothing can be carried over
        return recipe


def write_recipe(recipe: Recipe, run: str) -> None:
    """Write the resolved recipe to ``<run>/recipe.yaml``, unless it stands there already."""
    store, key = store_of(recipe), f"{run}/recipe.yaml"
    text = dump_recipe(recipe).encode()
    if not store.exists(key) or store.read(key) != text:
        store.write(key, text)


def fetch_step(recipe: Recipe, run: str, selection: Selection = ALL) -> Manifest | None:
    """Get the raw data of the recipe's sources into ``data_fetch/raw``, with its ``registry.json``."""
    def work(digest: str) -> Manifest:
        from vita_train.data.sources.fetch import fetch_all

        raw = raw_dir(recipe, run)
        raw.mkdir(parents=True, exist_ok=True)
        registry = fetch_all(recipe.data.source, raw, seed=recipe.seed)
        counts = {"datasets": float(len(registry.datasets)),
                  "splits": float(sum(len(dataset.splits) for dataset in registry.datasets.values()))}
        return Manifest(kind="data", run=run, stage="data_fetch", digest=digest, metrics=counts,
                        files={"registry": _stored(recipe, f"{run}/data_fetch/registry.json", raw / "registry.json"),
                               **_published(recipe, run, "data_fetch", raw)}, lineage=lineage_of(recipe, {}))

    return commit_step(recipe, run, "data_fetch", selection, lambda: {
        "source": sources_of(recipe), "seed": recipe.seed, "content": source_digests(recipe),
    }, work)


def prepare_step(recipe: Recipe, run: str, selection: Selection = ALL) -> Manifest | None:
    """Check every record and prepare the corpus in ``prepare/corpus``: tokens, labels, lengths, features."""
    def inputs() -> dict[str, Any]:
        return {**corpus_settings(recipe), "template": template_text(recipe),
                "data_fetch": needed(recipe, run, "data_fetch", by="prepare").digest}

    def work(digest: str) -> Manifest:
        from vita_train.data.prepare.run import prepare

        out = corpus_dir(recipe, run)
        fetched = needed(recipe, run, "data_fetch", by="prepare")
        ledger = prepare(recipe, present_raw(recipe, run) / "registry.json", out, workers=os.cpu_count() or 1,
                         force=selection.force)
        counts = {"records": ledger.records, "used": ledger.used, "rejected": ledger.rejected}
        return Manifest(kind="prepared", run=run, stage="prepare", digest=digest,
                        metrics={name: float(count) for name, count in counts.items()},
                        files={"ledger": _stored(recipe, f"{run}/prepare/ledger.json", out / "ledger.json"),
                               **_published(recipe, run, "prepare", out)},
                        lineage={**lineage_of(recipe, {"data_fetch": fetched}),
                                 "content": dataset_digests(recipe, ledger, out, fetched)})

    return commit_step(recipe, run, "prepare", selection, inputs, work)


def train_step(recipe: Recipe, run: str, stage: str, selection: Selection = ALL, task: Any = None) -> Manifest | None:
    """Train one stage as a torchrun job. A stage that the recipe does not have is passed over: the shipped pipelines
    serve every recipe that has some of their stages.

    Args:
        recipe, run, stage, selection: what.
        task: KFP's ``TaskConfig``: what was set on the task, for the job's pods.
    """
    if stage not in recipe.stages:
        return None

    def inputs() -> dict[str, Any]:
        prepared, spec = needed(recipe, run, "prepare", by=stage), recipe.stages[stage]
        earlier = input_stages(recipe, stage)
        settings = recipe.model_dump(mode="json", include={"tokenizer", "model", "seed"})
        settings["data"] = {**data_settings(recipe.data), "source": sources_of(recipe)}
        return {**settings, **given_digests(recipe), "stage": stage,
                "spec": spec.model_dump(mode="json", exclude=_SHOWN),
                "data": content_of(prepared, spec.datasets),
                "inputs": {name: needed(recipe, run, name, by=stage).digest for name in earlier}}

    def work(digest: str) -> Manifest:
        manifest = launch_stage(Run(recipe, run), stage, digest, task)
        return manifest.model_copy(update={"lineage": {**manifest.lineage, STEP_DIGEST: digest}})

    return commit_step(recipe, run, stage, selection, inputs, work)


def evaluate_step(recipe: Recipe, run: str, selection: Selection = ALL) -> Manifest | None:
    """Measure the finished model on every held-out slice."""
    def work(digest: str) -> Manifest:
        _use_threads(recipe)
        from vita_train.evaluation.run import evaluate_run

        metrics = evaluate_run(recipe, run, present_corpus(recipe, run))
        return Manifest(kind="evaluation", run=run, stage="evaluate", digest=digest, metrics=metrics,
                        lineage=lineage_of(recipe, stage_manifests(recipe, run, "evaluate")))

    return commit_step(recipe, run, "evaluate", selection, lambda: {
        "recipe": recipe_digest(recipe), "stages": digests_of(stage_manifests(recipe, run, "evaluate")),
        "prepare": needed(recipe, run, "prepare", by="evaluate").digest,
    }, work)


def export_step(recipe: Recipe, run: str, selection: Selection = ALL) -> Manifest | None:
    """Write the finished model into ``export/model``, load it back and compare before it is committed."""
    def work(digest: str) -> Manifest:
        _use_threads(recipe)
        from vita_train.weights.export import export_run

        corpus = present_corpus(recipe, run, media=False)
        files = export_run(recipe, run, corpus, run_dir(recipe, run) / "export" / "model")
        return Manifest(kind="export", run=run, stage="export", digest=digest,
                        files={path.name: _stored(recipe, f"{run}/export/model/{path.name}", path) for path in files},
                        lineage=lineage_of(recipe, stage_manifests(recipe, run, "export")))

    return commit_step(recipe, run, "export", selection, lambda: {
        "recipe": recipe_digest(recipe), "stages": digests_of(stage_manifests(recipe, run, "export")),
    }, work)


def report_step(recipe: Recipe, run: str, selection: Selection = ALL) -> Manifest | None:
    """Render the run as one HTML page, ``report/report.html``: finished or not, it shows how far the run came."""
    def inputs() -> dict[str, Any]:
        store = store_of(recipe)
        commits = {step: read_final(store, f"{run}/{step}") for step in (*recipe.stages, "evaluate")}
        # Of what has no commit the page shows how it went.
        return {"recipe": recipe_digest(recipe), "steps": {
            step: commit.digest if commit else last_progress(recipe, run, step) for step, commit in commits.items()}}

    def work(digest: str) -> Manifest:
        from vita_train.report.render import render_report

        remote = open_store(f"{recipe.storage.root.rstrip('/')}/{run}", endpoint=recipe.storage.endpoint)
        page = render_report(run_dir(recipe, run), store=None if is_local(recipe.storage.root) else remote)
        return Manifest(kind="report", run=run, stage="report", digest=digest,
                        files={"report": _stored(recipe, f"{run}/report/report.html", page)},
                        lineage=lineage_of(recipe, {}))

    return commit_step(recipe, run, "report", selection, inputs, work)


def publish(manifest: Manifest | None, artifact: Any, metrics: Any = None) -> None:
    """Hand a step's manifest to KFP: as the artifact's payload, with its digest and measures beside it.

    Args:
        manifest: what the step committed; None for a step that was not asked for.
        artifact: KFP output artifact.
        metrics: KFP metrics artifact, if the component has one.
    """
    Path(artifact.path).write_text(manifest.model_dump_json(indent=1) if manifest else "null", encoding="utf-8")
    if manifest is None:
        artifact.metadata["state"] = "not asked for"
        return
    artifact.metadata.update({"state": "committed", "kind": manifest.kind, "step": manifest.stage,
                              "run": manifest.run, "digest": manifest.digest})
    for name, value in sorted(manifest.metrics.items()) if metrics is not None else ():
        metrics.log_metric(name, value)


def publish_page(recipe: Recipe, manifest: Manifest | None, page: Any) -> None:
    """Hand the report to KFP as an HTML artifact."""
    text = b"<p>The report was not asked for.</p>"
    if manifest is not None:  # read from the store: another machine may have rendered it
        store, key = open_file(manifest.files["report"].uri, endpoint=recipe.storage.endpoint)
        text = store.read(key)
    Path(page.path).write_bytes(text)


def _use_threads(recipe: Recipe) -> None:
    """Give this one process the threads that a stage's processes have together. torch reads it when imported."""
    os.environ["OMP_NUM_THREADS"] = str(recipe.launch.nproc * recipe.launch.threads)


def _text_at(uri: str) -> str:
    """Return a recipe's YAML from a store; the line end says that it is text."""
    store, key = open_file(uri)
    return store.read(key).decode() + "\n"


def _file(path: Path) -> FileRef:
    return FileRef(uri=str(path), sha256=sha256_file(path), bytes=path.stat().st_size)


def _stored(recipe: Recipe, key: str, path: Path) -> FileRef:
    """Put a step's result into the run's store, unless that is where it lies already."""
    return _file(path) if is_local(recipe.storage.root) else store_of(recipe).upload(path, key)


def _published(recipe: Recipe, run: str, step: str, folder: Path) -> dict[str, FileRef]:
    """Store a step's folder for the other machines of a run; nothing to do where the store is this machine."""
    if is_local(recipe.storage.root):
        return {}
    return publish_tree(folder, store_of(recipe), f"{run}/{step}/shards")
