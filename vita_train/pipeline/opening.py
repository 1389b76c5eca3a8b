"""A run from a pipeline's parameters, and how its steps end."""

from __future__ import annotations

import html
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vita_train.errors import RecipeError, VitaError
from vita_train.recipe.load import dump_recipe, load_recipe, parse_recipe
from vita_train.recipe.platform import WORKFLOW, Platform, load_platform
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import Selection
from vita_train.runs.dated import dated, has_date
from vita_train.runs.run import Run
from vita_train.storage.base import KeyExistsError, is_local
from vita_train.storage.disk_errors import machine_faults
from vita_train.storage.factory import open_file, open_store

#: Keys below a root where the names of runs lie that hold a date, by the Workflow they belong to.
_NAMES = "run-names"
_URI = re.compile(r"[a-z][a-z0-9]*://\S+")
#: What the command line calls its way to change a setting.
_OPTION = re.compile(r"--set (?=[\w.]+=)")


def open_run(
    recipe: str,
    run: str = "",
    storage_root: str = "",
    overrides: Sequence[str] = (),
    steps: str = "",
    force: bool = False,
    *,
    is_first: bool = False,
) -> tuple[Run, Selection]:
    """Resolve what a pipeline's parameters mean. On a cluster that is done once: the first step of
    a Workflow notes the resolved recipe in the run, and the others read it there.

    Args:
        recipe: name of a shipped recipe, path, URI, or the YAML text itself.
        run: name of the run; empty takes the recipe's. ``{date}`` and ``{time}`` in it are filled
            in by whichever step of a Workflow comes first, and are the same for all of it.
        storage_root: replaces the recipe's ``storage.root`` unless empty.
        overrides: ``key.path=value`` settings.
        steps, force: see `Selection.of`.
        is_first: this is the pipeline's first step. It resolves the recipe anew even where it has
            done so before, as when a pipeline is tried again with a corrected recipe.

    Raises:
        RecipeError: it cannot be resolved, or its runs would lie on a disk of one of the cluster's
            machines.
    """
    settings = [*overrides, *([f"storage.root={storage_root}"] if storage_root else [])]
    # A recipe's text may be one line, and hold URIs itself.
    resolved = load_recipe(_text_at(recipe) if _URI.fullmatch(recipe) else recipe, settings)
    resolved = reachable(resolved, load_platform(), is_asked_for=bool(storage_root))
    opened = _as_first_resolved(Run(resolved, _name(run, resolved)).remembered(), is_first=is_first)
    opened.write_recipe()
    return opened, Selection.of(opened.recipe, steps, force)


def reachable(recipe: Recipe, platform: Platform | None, *, is_asked_for: bool) -> Recipe:
    """Return a recipe whose runs every step can reach: on a cluster they are different machines.

    Args:
        recipe: resolved.
        platform: of the cluster; None without one.
        is_asked_for: the root was given for this run, not by the recipe.

    Raises:
        RecipeError: its runs would lie on one machine's disk, and the cluster has no store.
    """
    if platform is None or platform.backend == "local" or not is_local(recipe.storage.root):
        return recipe
    if is_asked_for or not platform.store:
        raise RecipeError(
            f"the steps of a pipeline are pods of their own, which do not share the folder "
            f"{recipe.storage.root}",
            code="VT-RECIPE-078",
            where="storage_root" if is_asked_for else "storage.root",
            remedy="leave it empty"
            if platform.store
            else "give an s3:// URI, or let the chart name one in s3.stores",
        )
    storage = recipe.storage.model_copy(update={"root": platform.store})
    return recipe.model_copy(update={"storage": storage})


def _name(run: str, recipe: Recipe) -> str:
    """Return the name of a run with its date filled in."""
    name, workflow = dated(run, datetime.now(UTC)), os.environ.get(WORKFLOW, "")
    if not (has_date(run) and workflow):
        return name
    store = open_store(recipe.storage.root, endpoint=recipe.storage.endpoint)
    with suppress(KeyExistsError):
        store.write(f"{_NAMES}/{workflow}", name.encode(), if_absent=True)
    return store.read(f"{_NAMES}/{workflow}").decode()


def _as_first_resolved(run: Run, *, is_first: bool) -> Run:
    """Return the run with the recipe that the first step of its Workflow resolved.

    What a URI names may be edited while a pipeline runs, and a shipped recipe may differ from image
    to image; the stages of one run would be of several recipes without a word.
    """
    workflow = os.environ.get(WORKFLOW, "")
    if not workflow:  # of this machine, where one process resolves the recipe for all steps
        return run
    key = run.key("logs", f"recipe-{workflow}.yaml")
    with suppress(KeyExistsError):
        run.store.write(key, dump_recipe(run.recipe).encode(), if_absent=not is_first)
        return run
    return Run(parse_recipe(run.store.read(key).decode(), run.store.uri_of(key)), run.name)


@contextmanager
def one_message() -> Iterator[None]:
    """End the process with the message of an error that a user can do something about, as the last
    of its log and without a traceback."""
    try:
        with machine_faults():
            yield
    except VitaError as error:
        print(f"error: {on_the_page(str(error))}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None


@contextmanager
def shown_on(page: Any) -> Iterator[None]:
    """Show the message of an error that a user can do something about on a page, in place of what
    should stand there. The step that failed with it says so by its exit code; the page must be
    there all the same.

    Args:
        page: KFP HTML artifact.
    """
    try:
        with machine_faults():
            yield
    except VitaError as error:
        message = on_the_page(str(error))
        print(f"error: {message}", file=sys.stderr, flush=True)
        Path(page.path).write_text(
            "<!doctype html><meta charset='utf-8'><body style='font: 16px sans-serif; margin: 3em'>"
            f"<h1>This run was refused</h1><p>{html.escape(message)}</p></body>",
            encoding="utf-8",
        )


def on_the_page(message: str) -> str:
    """Return a message in the words of the page that starts runs, instead of the command line's."""
    return _OPTION.sub("the override ", message)


def _text_at(uri: str) -> str:
    """Return a recipe's YAML from a store; the line end says that it is text."""
    store, key = open_file(uri)
    return store.read(key).decode() + "\n"
