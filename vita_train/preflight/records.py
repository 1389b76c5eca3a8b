"""The records of a run as far as they can be seen from here, before anything is fetched or
prepared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vita_train.recipe.sources import RecordsSource
from vita_train.runs.run import Run

if TYPE_CHECKING:
    from vita_train.data.sources.source import RecordSource


def splits_here(run: Run) -> Iterator[RecordSource]:
    """Yield each split whose record file lies on this machine, with the media roots that do: of the
    fetched data, else of the registries that the recipe names.

    Raises:
        DataError: a registry cannot be read.
        StorageError: the store that one lies in stays away.
    """
    from vita_train.data.sources.own import own_registry
    from vita_train.data.sources.registry import load_registry
    from vita_train.data.sources.remote import is_remote
    from vita_train.data.sources.source import open_splits
    from vita_train.data.sources.splitting import TRAIN

    fetched = run.raw_dir / "registry.json"
    if fetched.is_file():
        registries = [(fetched, load_registry(fetched))]
    else:
        own = [s for s in run.recipe.data.source.values() if isinstance(s, RecordsSource)]
        registries = [(Path("/registry"), own_registry(source)) for source in own]
    for path, registry in registries:
        for split in open_splits(path, registry):
            splits = registry.datasets[split.dataset].splits
            named = (splits.get(split.split) or splits[TRAIN]).roots
            here = {key: split.roots[key] for key, root in named.items() if not is_remote(root)}
            if split.path.is_file():
                yield replace(split, roots=here)
