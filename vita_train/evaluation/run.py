"""The finished model of a run: every measure in full, and samples for the report."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from vita_train.data.index import Corpus
from vita_train.errors import UserError
from vita_train.evaluation.catalogue import all_tasks
from vita_train.evaluation.measures import Bench, evaluating, measure
from vita_train.evaluation.samples import collect_samples
from vita_train.models.build import build_modules
from vita_train.models.checkpoint.export import LEFT_OUT, newest_modules
from vita_train.models.checkpoint.refs import load_refs
from vita_train.recipe.ladder import MODULES
from vita_train.recipe.load import parse_recipe
from vita_train.recipe.schema import Recipe
from vita_train.storage.final import read_final
from vita_train.storage.run_paths import store_of
from vita_train.storage.store import open_store


def find_run(uri: str) -> tuple[Recipe, str]:
    """Return the recipe and the name of the run in a directory or s3:// URI, as it lies there now.

    Raises:
        UserError: there is no run.
    """
    store = open_store(uri)
    if not store.exists("recipe.yaml"):
        raise UserError("there is no run here", where=store.uri, remedy="give the directory <storage.root>/<run>")
    text = store.read("recipe.yaml").decode(errors="replace")
    root, _, run = store.uri.rstrip("/").rpartition("/")
    recipe = parse_recipe(text, f"{store.uri}/recipe.yaml")
    # It may have been moved since its recipe was written.
    return recipe.model_copy(update={"storage": recipe.storage.model_copy(update={"root": root or "/"})}), run


def evaluate_run(recipe: Recipe, run: str, corpus_dir: Path, *, limit: int | None = None) -> dict[str, float]:
    """Return every measure of a run's newest weights, and write ``evaluate/samples.json`` with its media.

    Args:
        recipe: the run's recipe.
        run: its name below ``storage.root``.
        corpus_dir: the prepared corpus.
        limit: most samples of a slice; None takes the largest ``eval.limit`` of the stages.

    Raises:
        UserError: no stage of the run is finished.
        CheckpointError: weights are missing or damaged.
    """
    corpus = Corpus.open(corpus_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modules = load_newest(recipe, run, units=len(corpus.units)).to(device)
    limit = limit or max(spec.eval.limit for spec in recipe.stages.values())
    metrics = measure(recipe, corpus, modules, limit=limit, device=device)
    store = store_of(recipe)
    bench = Bench(recipe, corpus, modules, device)
    with evaluating(modules), torch.no_grad():
        listed = collect_samples(bench, all_tasks(recipe, corpus, modules.keys()),
                                 lambda key, data: store.write(f"{run}/evaluate/{key}", data))
    store.write(f"{run}/evaluate/samples.json", json.dumps(listed, ensure_ascii=False, indent=1).encode())
    return metrics


def load_newest(recipe: Recipe, run: str, *, units: int = 0, without: Collection[str] = LEFT_OUT) -> nn.ModuleDict:
    """Return every module a run has trained, at its newest weights, and those that come pretrained, in eval mode.

    Args:
        recipe: the run's recipe.
        run: its name below ``storage.root``.
        units: outputs of the recogniser; needed unless ``without`` names its head.
        without: modules left out.

    Raises:
        UserError: no stage of the run is finished.
        CheckpointError: weights are missing or damaged.
    """
    store = store_of(recipe)
    found = [read_final(store, f"{run}/{stage}") for stage in recipe.stages]
    newest = newest_modules([manifest for manifest in found if manifest])
    if not newest:
        raise UserError("no stage of this run is finished", where=store.uri_of(run),
                        remedy="train at least one stage first")
    refs = {name: ref for name, ref in newest.items() if name not in without}
    pretrained = recipe.model.given - set(refs)
    dtype = getattr(torch, recipe.model.dtype)
    modules = {**load_refs(recipe.model, refs, units=units, dtype=dtype, endpoint=recipe.storage.endpoint, mapped=True),
               **build_modules(recipe.model, pretrained, dtype=dtype)}
    return nn.ModuleDict({name: modules[name] for name in MODULES if name in modules}).eval()
