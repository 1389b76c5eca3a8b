"""A run from the place where it lies."""

from __future__ import annotations

from vita_train.errors import UserError
from vita_train.recipe.load import parse_recipe
from vita_train.recipe.schema import Recipe
from vita_train.storage.factory import open_store


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
