"""Keys of the recipe that were renamed, and recipe files rewritten to the new names."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import NamedTuple

import yaml

from vita_train.errors import RecipeError
from vita_train.recipe.yaml_tree import Path, compose_yaml, parse_yaml

#: Where a former key may stand (``*`` for the name of any stage), and its name today.
RENAMED_KEYS: dict[tuple[str, ...], str] = {
    ("stages", "*", "batch", "rows"): "global_batch_size",
    ("stages", "*", "batch", "accumulate"): "grad_accum",
    ("stages", "*", "batch", "row_tokens"): "seq_len",
    ("stages", "*", "batch", "row_tiles"): "max_tiles",
    ("stages", "*", "batch", "row_frames"): "max_audio_frames",
    ("stages", "*", "optim", "clip_norm"): "max_grad_norm",
    ("stages", "*", "optim", "final"): "min_lr_ratio",
    ("stages", "*", "eval", "every"): "interval",
    ("stages", "*", "eval", "limit"): "max_samples",
    ("stages", "*", "save_every"): "checkpoint_interval",
    ("model", "ctc_head", "units"): "vocab",
}


class Rename(NamedTuple):
    """A key of a file that has another name today."""

    line: int
    """Counted from 1."""
    old: str
    """Dotted path, such as ``stages.1.1.batch.rows``."""
    new: str
    """The key's name today, without its path."""


def renamed_key(path: Path) -> str | None:
    """Return what the key at a path of a recipe is called today, or None if it was never
    renamed."""
    stage = path[:1] == ("stages",) and len(path) > 1
    return RENAMED_KEYS.get(tuple(map(str, ("stages", "*", *path[2:]) if stage else path)))


def upgrade_recipe(text: str, source: str) -> tuple[str, list[Rename]]:
    """Return a recipe's YAML with today's keys, and what was renamed; all else stays to the letter.

    Comments, order, quotes and line ends are kept, since only the keys themselves are replaced.

    Args:
        text: the YAML, with former keys, today's, or some of each.
        source: what to call it in messages.

    Raises:
        RecipeError: it is not YAML, or has a key under both of its names.
    """
    parse_yaml(text, source)  # refuses what no recipe may hold, endless aliases above all
    root = compose_yaml(text, source)
    found: dict[int, tuple[yaml.ScalarNode, Rename]] = {}
    for key, rename in _former_keys(root, (), source):
        found.setdefault(key.start_mark.index, (key, rename))  # aliases lead to the same key again
    parts: list[str] = []
    end = 0
    for start, (key, rename) in sorted(found.items()):
        written = text[start : key.end_mark.index]  # perhaps in quotes
        parts += [text[end:start], written.replace(key.value, rename.new)]
        end = key.end_mark.index
    return "".join([*parts, text[end:]]), [rename for _, (_, rename) in sorted(found.items())]


def _former_keys(
    node: yaml.Node | None, path: Path, source: str
) -> Iterator[tuple[yaml.ScalarNode, Rename]]:
    """Yield the keys that were renamed, those behind an anchor once for every alias."""
    if not isinstance(node, yaml.MappingNode):
        return
    keys = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        here = (*path, key.value)
        name, line = ".".join(map(str, here)), key.start_mark.line + 1
        if (new := renamed_key(here)) is not None:
            if new in keys:
                raise RecipeError(
                    f"{name} is the former name of {new}, which stands beside it",
                    code="VT-RECIPE-040",
                    where=f"{source}:{line}",
                    remedy="remove one of them",
                )
            yield key, Rename(line, name, new)
        yield from _former_keys(value, here, source)


def upgrade_file(path: FilePath, *, write: bool = True) -> list[Rename]:
    """Rewrite a recipe file to today's keys and return what was renamed; the file is replaced whole
    or not at all.

    Args:
        path: the file; behind a link, what it points to is rewritten.
        write: whether to change it.

    Raises:
        RecipeError: it cannot be read or written, or is not a recipe.
    """
    # To rename over a link would replace the link, not the file
    target = path.resolve()
    try:
        text = target.read_bytes().decode("utf-8")
        upgraded, renames = upgrade_recipe(text, str(path))
        if renames and write:
            _replace(target, upgraded)
    except UnicodeDecodeError as error:
        raise RecipeError(
            "is not a text file in UTF-8", code="VT-RECIPE-041", where=str(path)
        ) from error
    except OSError as error:
        raise RecipeError(
            f"cannot be rewritten: {error.strerror}", code="VT-RECIPE-042", where=str(path)
        ) from error
    return renames


def _replace(path: FilePath, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # Bytes: text mode would change the line ends that were kept
        with open(handle, "wb") as file:
            file.write(text.encode("utf-8"))
        # mkstemp makes files for their owner alone
        shutil.copymode(path, name)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
