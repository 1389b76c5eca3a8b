"""A job's word is not enough: what it says it did must lie in the store."""

from __future__ import annotations

from vita_train.errors import VitaError
from vita_train.recipe.schema import Recipe
from vita_train.runs.final import final_key, read_final
from vita_train.runs.manifest import Manifest
from vita_train.runs.paths import store_of


def committed(recipe: Recipe, run: str, stage: str, *, logs: str) -> Manifest:
    """Return the manifest a finished job committed.

    Args:
        recipe: the run's recipe.
        run: name of the run.
        stage: canonical stage id.
        logs: where a reader finds the job's logs.

    Raises:
        VitaError: it committed nothing.
    """
    store = store_of(recipe)
    manifest = read_final(store, f"{run}/{stage}")
    if manifest is None:
        raise VitaError("the job ended as if it were done, but committed nothing",
                        where=store.uri_of(final_key(f"{run}/{stage}")), remedy=f"its logs are in {logs}")
    return manifest
