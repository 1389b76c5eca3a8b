"""What goes into a step: the manifests it builds on, and digests of all that its result depends
on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vita_train import __version__
from vita_train.errors import UserError
from vita_train.recipe.corpus import corpus_settings, data_settings
from vita_train.recipe.presets import preset_names
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import input_stages
from vita_train.recipe.sources import RecordsSource
from vita_train.runs.manifest import Manifest, content_of
from vita_train.runs.run import Run
from vita_train.storage.digest import digest_of
from vita_train.weights.pretrained import pretrained_modules

if TYPE_CHECKING:
    from vita_train.data.prepare.ledger import PrepareLedger


#: Settings of a stage that change nothing it computes. What it starts after counts through its
#: inputs.
_SHOWN = {"title", "group", "after"}


def step_inputs(run: Run, step: str) -> dict[str, Any]:
    """Return all that the result of a step depends on: settings, and digests of what it reads.

    Raises:
        UserError: what it builds on was never done.
    """
    return _INPUTS[step](run) if step in _INPUTS else _stage(run, step)


def _data_fetch(run: Run) -> dict[str, Any]:
    return {
        "source": sources_of(run.recipe),
        "seed": run.recipe.seed,
        "content": source_digests(run.recipe),
    }


def _prepare(run: Run) -> dict[str, Any]:
    return {
        **corpus_settings(run.recipe),
        "template": template_text(run.recipe),
        "data_fetch": require_manifest(run, "data_fetch", by="prepare").digest,
        **_prepared(run.recipe),
        **({"media": "shards"} if run.recipe.storage.media == "shards" else {}),
    }


def _prepared(recipe: Recipe) -> dict[str, str]:
    """Return the digest of what the recipe takes as it is; nothing where it takes nothing."""
    if not recipe.data.prepared:
        return {}
    from vita_train.data.prepare.reuse import read_meta

    return {"prepared": read_meta(Path(recipe.data.prepared))["digest"]}


def _preflight(run: Run) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "recipe": recipe_digest(recipe),
        "tracking": recipe.tracking.model_dump(mode="json"),
        "dry_batches": recipe.launch.dry_batches,
        "prepare": require_manifest(run, "prepare", by="preflight").digest,
    }


def _stage(run: Run, stage: str) -> dict[str, Any]:
    prepared, spec = require_manifest(run, "prepare", by=stage), run.recipe.stages[stage]
    settings = run.recipe.model_dump(mode="json", include={"tokenizer", "model", "seed"})
    settings["data"] = {**data_settings(run.recipe.data), "source": sources_of(run.recipe)}
    earlier = input_stages(run.recipe, stage)
    return {
        **settings,
        **pretrained_digests(run.recipe),
        "stage": stage,
        "spec": spec.model_dump(mode="json", exclude=_SHOWN),
        "data": content_of(prepared, spec.datasets),
        "inputs": {name: require_manifest(run, name, by=stage).digest for name in earlier},
    }


def _export(run: Run) -> dict[str, Any]:
    return {
        "recipe": recipe_digest(run.recipe),
        "stages": digests_of(stage_manifests(run, "export")),
    }


def _evaluate(run: Run) -> dict[str, Any]:
    return {
        "recipe": recipe_digest(run.recipe),
        "stages": digests_of(stage_manifests(run, "evaluate")),
        "prepare": require_manifest(run, "prepare", by="evaluate").digest,
    }


def _report(run: Run) -> dict[str, Any]:
    commits = {step: run.final(step) for step in (*run.recipe.stages, "evaluate")}
    # Of what has no commit the page shows how it went.
    return {
        "recipe": recipe_digest(run.recipe),
        "steps": {
            step: commit.digest if commit else last_progress(run, step)
            for step, commit in commits.items()
        },
    }


_INPUTS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "data_fetch": _data_fetch,
    "prepare": _prepare,
    "preflight": _preflight,
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
}


def require_manifest(run: Run, step: str, *, by: str) -> Manifest:
    """Return the manifest of a step that another one builds on.

    Raises:
        UserError: it was never done; the command that does it is the remedy.
    """
    manifest = run.final(step)
    if manifest is None:
        raise UserError(
            f"{by} needs {step}, which run {run.name!r} has not done yet",
            code="VT-USE-068",
            where=run.final_uri(step),
            remedy=f"vita-train run {_given_as(run.recipe)} --run {run.name} --until {step}",
        )
    return manifest


def dataset_digests(
    recipe: Recipe, ledger: PrepareLedger, corpus: Path, fetched: Manifest
) -> dict[str, str]:
    """Digest what each dataset holds for training: its rows, and the settings that its media are
    loaded with."""
    settings = {name: value for name, value in corpus_settings(recipe).items() if name != "stages"}
    # Hashed when they were written.
    vocabularies = json.loads((corpus / "meta.json").read_text(encoding="utf-8"))["sha256"]
    shared = {
        "settings": settings,
        "template": template_text(recipe),
        "fetched": fetched.digest,
        "vocabularies": {PurePosixPath(name).name: digest for name, digest in vocabularies.items()},
    }
    return {
        split.dataset: digest_of({**shared, "rows": split.digest})
        for split in ledger.splits
        if split.split == "train"
    }


def template_text(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's template says: editing a user's own must be noticed."""
    from vita_train.data.templates import load_template

    return load_template(recipe.data.template).model_dump(mode="json")


def sources_of(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of the recipe's sources as plain values."""
    return {name: source.model_dump(mode="json") for name, source in recipe.data.source.items()}


def source_digests(recipe: Recipe) -> dict[str, dict[str, str]]:
    """Digests of the user's own record files by source, so that editing them is noticed; none for
    other sources."""
    from vita_train.data.sources.own import own_versions

    return {
        name: own_versions(source)
        for name, source in recipe.data.source.items()
        if isinstance(source, RecordsSource)
    }


def pretrained_digests(recipe: Recipe) -> dict[str, Any]:
    """Digests of the weights that the recipe starts from, so that other ones are noticed; empty
    without any."""
    files = {
        name: [file.sha256 for file in ref.files]
        for name, ref in pretrained_modules(recipe).items()
    }
    return {"weights": files} if files else {}


def last_progress(run: Run, step: str) -> str:
    """Return what a step last said of itself; empty before it began."""
    key = run.key(step, "progress.json")
    return run.store.read(key).decode() if run.store.exists(key) else ""


def digests_of(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return each manifest's digest."""
    return {name: manifest.digest for name, manifest in manifests.items()}


def stage_manifests(run: Run, by: str) -> dict[str, Manifest]:
    """Return what every stage of the recipe committed.

    Raises:
        UserError: one was never done.
    """
    return {stage: require_manifest(run, stage, by=by) for stage in run.recipe.stages}


def _given_as(recipe: Recipe) -> str:
    """Return how a user names a recipe on the command line."""
    return recipe.name if recipe.name in preset_names() else "RECIPE"


def recipe_digest(recipe: Recipe) -> str:
    """Digest of what a recipe computes; where it is stored and how it is launched do not count."""
    return digest_of(recipe.model_dump(mode="json", exclude={"storage", "launch", "tracking"}))


def lineage_of(recipe: Recipe, inputs: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return where a step's result comes from."""
    return {"recipe": recipe_digest(recipe), "code": __version__, "inputs": digests_of(inputs)}
