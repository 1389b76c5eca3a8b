"""From a name or a file to a `Recipe`: strict, with the file and line of whatever is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from vita_train.compat.vita.scripts import SCRIPTS, script_name, script_run
from vita_train.credentials import REMEDY, holds_credentials
from vita_train.errors import RecipeError
from vita_train.recipe.family import fill_in_family
from vita_train.recipe.graph import GraphError, Node, check_graph, filled_in
from vita_train.recipe.overrides import apply_overrides
from vita_train.recipe.presets import preset_names, preset_path
from vita_train.recipe.schema import Recipe
from vita_train.recipe.validation import validated
from vita_train.recipe.yaml_tree import Path, Tree, dump_yaml, parse_yaml


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe, resolved in full.

    Args:
        name_or_path: a shipped recipe's name, that of a public launch script, a YAML file, or (more
            than one line, or a mapping in braces) the YAML itself.
        overrides: settings ``a.b=c`` laid over it, in order.

    Raises:
        RecipeError: there is no such recipe, or it is wrong somewhere; each problem with its file
            and line.
        UserError: a public script asks for what no recipe can say yet.
    """
    if "\n" in name_or_path or name_or_path.startswith("{"):
        return parse_recipe(name_or_path, "recipe", overrides)
    if script := script_name(name_or_path):
        return parse_recipe(dump_recipe(script_run(script).recipe), script, overrides)
    preset = preset_path(name_or_path)
    path = preset or FilePath(name_or_path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _unknown(name_or_path) from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            "is not a text file in UTF-8", code="VT-RECIPE-028", where=str(path)
        ) from error
    except OSError as error:
        raise RecipeError(
            f"cannot be read: {error.strerror}", code="VT-RECIPE-029", where=str(path)
        ) from error
    return parse_recipe(
        text,
        path.name if preset else name_or_path,
        overrides,
        folder=None if preset else path.parent,
    )


def parse_recipe(
    text: str, source: str, overrides: Sequence[str] = (), *, folder: FilePath | None = None
) -> Recipe:
    """Return the recipe a YAML text describes.

    Args:
        text: the YAML.
        source: what to call it in messages.
        overrides: settings ``a.b=c`` laid over it, in order.
        folder: where the text lies; registries that it names by a relative path are looked for
            there.
    """
    tree = parse_yaml(text, source)
    if tree.value is None:
        tree.value = {}
    if not isinstance(tree.value, dict):
        raise RecipeError(
            "a recipe is a mapping of settings", code="VT-RECIPE-030", where=tree.location(())
        )
    if folder is not None:
        _find_registries(tree.value, folder)
    apply_overrides(tree, overrides)
    # After the overrides, which can bring some in; before validation, which quotes values
    _check_credentials(tree, tree.value, ())
    _check_sources(tree)
    _check_stages(tree)
    fill_in_family(tree.value)
    return validated(Recipe, tree)


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with every setting in it; `load_recipe` reads it back as the same
    recipe.

    Of ``launch.settings`` only what was set is written: a backend lays it over a platform's
    settings, which defaults must not replace.
    """
    tree = recipe.model_dump(mode="json")
    tree["launch"]["settings"] = recipe.launch.settings.model_dump(mode="json", exclude_unset=True)
    return dump_yaml(tree)


def _find_registries(recipe: dict[str, Any], folder: FilePath) -> None:
    """Make the paths of registries, and of a prepared corpus, that lie beside the recipe absolute.

    Others stay as they are: a run writes its recipe into folders of its own, where a path that was
    typed must still mean what it meant.
    """
    data = recipe.get("data")
    if not isinstance(data, dict):
        return
    prepared, sources = data.get("prepared"), data.get("source")
    named = isinstance(prepared, str) and prepared
    if named and os.path.isdir(beside := folder.resolve() / str(prepared)):
        data["prepared"] = str(beside)
    for source in sources.values() if isinstance(sources, dict) else ():
        registry = source.get("registry") if isinstance(source, dict) else None
        # Not pathlib's: a name that is too long for the file system is no file, and no error.
        if isinstance(registry, str) and os.path.isfile(beside := folder.resolve() / registry):
            source["registry"] = str(beside)


def _check_credentials(tree: Tree, value: Any, path: Path) -> None:
    """Refuse URLs with credentials in them, wherever they stand."""
    if isinstance(value, str) and holds_credentials(value):
        raise RecipeError(
            f"{'.'.join(map(str, path))} holds a user, a password or a key inside a URL",
            code="VT-RECIPE-031",
            where=tree.location(path),
            remedy=REMEDY,
        )
    for key, inner in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        _check_credentials(tree, inner, (*path, key))


def _check_sources(tree: Tree) -> None:
    """Refuse a single source without a name, as recipes once had it."""
    data = tree.value.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if isinstance(source, dict) and isinstance(kind := source.get("kind"), str):
        raise RecipeError(
            "data.source names its sources",
            code="VT-RECIPE-032",
            where=tree.location(("data", "source")),
            remedy=f"write source: {{{kind}: {{kind: {kind}, ...}}}}, with any name for the source",
        )


def one_line(recipe: Recipe) -> str:
    """Return a recipe as YAML with every setting in it, in one line of braces."""
    # JSON is YAML, and has no line breaks of its own
    return json.dumps(parse_yaml(dump_recipe(recipe), recipe.name).value)


def _check_stages(tree: Tree) -> None:
    """Refuse a graph of stages that cannot be run, with the line it is about; what has the wrong
    shape comes later."""
    stages = tree.value.get("stages")
    if not isinstance(stages, dict):
        return
    specs = {str(name): spec if isinstance(spec, dict) else {} for name, spec in stages.items()}
    after = {name: spec.get("after") for name, spec in specs.items()}
    if not all(
        said is None or (isinstance(said, list) and all(isinstance(name, str) for name in said))
        for said in after.values()
    ):
        return
    trains = {
        name: tuple(spec["trainable"]) if isinstance(spec.get("trainable"), dict) else ()
        for name, spec in specs.items()
    }
    try:
        check_graph(
            {name: Node(parents, trains[name]) for name, parents in filled_in(after).items()}
        )
    except GraphError as error:
        location = tree.location(("stages", error.stage, *([error.key] if error.key else [])))
        raise RecipeError(
            error.what, code="VT-RECIPE-033", where=location, remedy=error.remedy
        ) from None


def _unknown(name: str) -> RecipeError:
    if "/" in name or name.endswith((".yaml", ".yml")):
        return RecipeError("there is no such recipe file", code="VT-RECIPE-034", where=name)
    near = get_close_matches(name, [*preset_names(), *SCRIPTS], n=3)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"shipped recipes are {', '.join(preset_names())}"
    )
    return RecipeError(
        f"there is no recipe {name!r}",
        code="VT-RECIPE-035",
        remedy=f"{hint}; a file is given by its path",
    )
