"""Prepared corpora that are used again: what one was prepared with, held against a recipe, and
taken into a run as it is."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vita_train.console import say
from vita_train.data.prepare.ledger import PrepareLedger
from vita_train.data.prepare.tokenizer_apart import save_tokenizer
from vita_train.data.sources.registry import Registry
from vita_train.data.templates import load_template
from vita_train.errors import DataError
from vita_train.recipe.corpus import corpus_settings
from vita_train.recipe.schema import Recipe
from vita_train.storage.digest import sha256_file

META = "meta.json"


def made_with(recipe: Recipe, datasets: Iterable[str]) -> dict[str, Any]:
    """Return what a corpus of some datasets is prepared with, as plain values: settings, template,
    and by dataset the budgets of the rows that its records have to fit."""
    settings = corpus_settings(recipe)
    stages: dict[str, list[Any]] = settings.pop("stages")
    budgets = {
        # Each once, whichever stages have it, in an order that is no matter of their names
        name: sorted({(kind, *rest) for kind, read, *rest in stages.values() if name in read})
        for name in sorted(datasets)
    }
    template = load_template(recipe.data.template).model_dump(mode="json")
    plain: dict[str, Any] = json.loads(
        json.dumps({**settings, "template": template, "budgets": budgets})
    )
    return plain


def differences(theirs: dict[str, Any], recipe: Recipe) -> list[str]:
    """Return in what a corpus was prepared otherwise than a recipe asks for, each with both values;
    of the budgets those of the recipe's datasets count."""
    wanted = {name for spec in recipe.stages.values() for name in spec.datasets}
    ours = made_with(recipe, wanted)
    theirs = {
        **theirs,
        "budgets": {
            name: found for name, found in theirs.get("budgets", {}).items() if name in wanted
        },
    }
    return list(_unlike("", theirs, ours))


def _unlike(name: str, theirs: Any, ours: Any) -> Iterable[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            yield from _unlike(f"{name}.{key}".lstrip("."), theirs.get(key), ours.get(key))
    elif theirs != ours:
        yield f"{name} is {json.dumps(theirs)} there and {json.dumps(ours)} in the recipe"


def read_meta(corpus: Path) -> dict[str, Any]:
    """Return what a prepared corpus says of itself.

    Raises:
        DataError: there is none, or it was prepared before corpora said what with.
    """
    try:
        meta = json.loads((corpus / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"no prepared corpus can be read: {error}",
            code="VT-DATA-146",
            where=str(corpus),
            remedy="give a folder that `vita-train data prepare` wrote",
        ) from None
    tables = ("made_with", "datasets", "sha256", "tasks", "ratios")
    if not isinstance(meta, dict) or not all(isinstance(meta.get(key), dict) for key in tables):
        raise DataError(
            "does not say what it was prepared with",
            code="VT-DATA-147",
            where=str(corpus),
            remedy="prepare it again",
        )
    return meta


def check_reusable(recipe: Recipe, corpus: Path) -> dict[str, Any]:
    """Hold a prepared corpus against a recipe; return what it says of itself.

    Raises:
        DataError: it lacks a dataset, or was prepared with other settings, template or tokenizer.
    """
    meta = read_meta(corpus)
    for stage, spec in recipe.stages.items():
        if absent := [name for name in spec.datasets if name not in meta["datasets"]]:
            raise DataError(
                f"stage {stage} trains on {', '.join(absent)}, which the prepared corpus has not",
                code="VT-DATA-148",
                where=str(corpus),
                remedy=f"it has {', '.join(meta['datasets'])}",
            )
    found = differences(meta["made_with"], recipe)
    if not found and recipe.tokenizer.source is not None:
        found = _other_tokenizer(recipe, corpus, meta["sha256"])
    if found:
        raise DataError(
            f"was prepared otherwise than this recipe asks for: {'; '.join(found[:5])}",
            code="VT-DATA-149",
            where=str(corpus),
            remedy="prepare it again with this recipe, or set data.prepared to one that was",
        )
    return meta


def _other_tokenizer(recipe: Recipe, corpus: Path, sha256: dict[str, str]) -> list[str]:
    """Say whether the recipe's tokenizer has become another since."""
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "tokenizer"
        save_tokenizer(recipe, Registry(datasets={}), Path(scratch), saved)
        other = [
            path.name
            for path in sorted(saved.iterdir())
            if sha256.get(f"tokenizer/{path.name}") != sha256_file(path)
        ]
    return [f"{', '.join(other)} of tokenizer {recipe.tokenizer.source} changed"] if other else []


def take_prepared(
    recipe: Recipe, corpus: Path, out: Path, progress: Callable[[str], None] = say
) -> PrepareLedger:
    """Put a prepared corpus at ``out``, whole or not at all, and return its ledger. Files are
    linked where both are on one disk; nothing changes them.

    Raises:
        DataError: it does not fit the recipe (`check_reusable`).
    """
    corpus, out = corpus.resolve(), out.resolve()
    meta = check_reusable(recipe, corpus)
    ledger = PrepareLedger.load(corpus / "ledger.json")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(corpus, partial, copy_function=_link)
        for dataset, splits in meta["datasets"].items():
            for split in splits:
                write_roots(partial / dataset / split, split_roots(corpus / dataset / split))
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot be taken: {getattr(error, 'strerror', None) or error}",
            code="VT-DATA-150",
            where=str(getattr(error, "filename", None) or corpus),
            remedy="look whether it can be read, and whether there is room",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress(f"prepare: {ledger.used} of {ledger.records} records as prepared in {corpus}")
    return ledger


def split_roots(split: Path) -> dict[str, str]:
    """Return the media roots of a prepared split, as full paths."""
    roots = json.loads((split / META).read_text(encoding="utf-8"))["roots"]
    return {key: str((split / root).resolve()) for key, root in roots.items()}


def write_roots(split: Path, roots: dict[str, str]) -> None:
    """Give a prepared split other media roots."""
    path = split / META
    meta = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()  # may be a link to another corpus' file
    path.write_text(json.dumps({**meta, "roots": roots}, indent=1, sort_keys=True) + "\n", "utf-8")


def _link(source: str, target: str) -> None:
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)
