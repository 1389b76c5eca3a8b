"""What a corpus is prepared from: a recipe and a registry that fit each other."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vita_train.data.prepare.index_writer import INDEX_FORMAT
from vita_train.data.prepare.vocabulary import TRAIN
from vita_train.data.sources.registry import Registry, SplitSource, resolve
from vita_train.data.templates import load_template
from vita_train.errors import DataError
from vita_train.recipe.corpus import corpus_settings
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.storage.digest import digest_of

#: What objectives read that take the first clip of a record for its recording.
_WHOLE = ("audio", "codes")
DEV = "dev"
"""The split that is measured while a stage trains."""


def check_datasets(recipe: Recipe, registry: Registry, path: Path) -> None:
    """Refuse a recipe whose stages name datasets that the registry does not have, or has cut into
    chunks where the stage needs whole recordings.

    Raises:
        DataError: the dataset, the stage, and what the registry has.
    """
    for stage, spec in recipe.stages.items():
        for name in spec.datasets:
            if name not in registry.datasets or TRAIN not in registry.datasets[name].splits:
                known = ", ".join(
                    sorted(
                        name for name, entry in registry.datasets.items() if TRAIN in entry.splits
                    )
                )
                raise DataError(
                    f"stage {stage} trains on {name!r}, which has no train split",
                    code="VT-DATA-014",
                    where=str(path),
                    remedy=f"datasets with one: {known or 'none'}",
                )
            limits = registry.audio_sets.get(name)
            if limits and limits.chunk_seconds and OBJECTIVES[spec.objective].reads in _WHOLE:
                raise DataError(
                    f"stage {stage} ({spec.objective}) learns from one recording a record, and "
                    f"audio_sets has those of {name} cut into chunks",
                    code="VT-DATA-127",
                    where=str(path),
                    remedy="take chunk_seconds out, or the dataset out of the stage's data",
                )


def input_digest(recipe: Recipe, registry: Registry, path: Path) -> str:
    """Digest of everything the corpus is made of: settings, registry and record files (not the
    media's bytes)."""
    files = {
        f"{name}/{split}": _file_digest(resolve(path, source.records))
        for name, entry in registry.datasets.items()
        for split, source in entry.splits.items()
    }
    return digest_of(
        {
            "format": INDEX_FORMAT,
            "registry": registry.model_dump(mode="json"),
            "files": files,
            "template": load_template(recipe.data.template).model_dump(mode="json"),
            "settings": corpus_settings(recipe),
        }
    )


def with_registry(recipe: Recipe, registry: Registry) -> Recipe:
    """Return the recipe with what the registry adds to its settings: sets that are never tiled."""
    image = recipe.data.image
    never = tuple(dict.fromkeys((*image.no_tile_sets, *registry.no_tile_sets)))
    if never == image.no_tile_sets:
        return recipe
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(
                update={"image": image.model_copy(update={"no_tile_sets": never})}
            )
        }
    )


def shares(recipe: Recipe, registry: Registry) -> list[str]:
    """Return a line for each stage in which the registry's ratios change the recipe's weights."""
    lines = []
    for stage, spec in recipe.stages.items():
        ratios = {name: registry.datasets[name].ratio for name in spec.data}
        if any(ratio != 1 for ratio in ratios.values()):
            lines.append(
                f"stage {stage} takes "
                + ", ".join(
                    f"{name} {weight * ratios[name]:g} times ({weight:g} x {ratios[name]:g})"
                    for name, weight in spec.data.items()
                )
            )
    return lines


def unmeasured(recipe: Recipe, registry: Registry) -> list[str]:
    """Return a line for each stage that is to be measured while it trains and has nothing to be
    measured on."""
    return [
        f"stage {stage} measures nothing while it trains: no dataset of it has a dev split; give "
        "one in the registry, or split_off: {parts: {dev: 0.02}}"
        for stage, spec in recipe.stages.items()
        if spec.eval.interval
        and not any(DEV in registry.datasets[name].split_names for name in spec.data)
    ]


def source_of(registry: Registry, dataset: str, split: str) -> SplitSource:
    """Return the entry that a split's records come from: train's, where they are split off it."""
    splits = registry.datasets[dataset].splits
    return splits.get(split) or splits[TRAIN]


def portable_roots(source: SplitSource, registry: Path, at: Path) -> dict[str, str]:
    """Roots as the index keeps them: relative ones stay relative, so that a run's directory can be
    moved."""
    return {
        key: root if Path(root).is_absolute() else os.path.relpath(resolve(registry, root), at)
        for key, root in sorted(source.roots.items())
    }


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"record file cannot be read: {error.strerror}",
            code="VT-DATA-016",
            where=str(path),
            remedy="check the path in the registry",
        ) from error
