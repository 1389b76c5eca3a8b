"""The user's own records: a registry and what it names, on this machine or in an object store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from vita_train.data.sources.registry import (
    AUDIO_ROOT,
    Registry,
    SplitSource,
    load_registry,
    resolve,
)
from vita_train.data.sources.remote import (
    bring,
    is_remote,
    joined,
    record_versions,
    remote_registry,
)
from vita_train.errors import DataError, UserError
from vita_train.recipe.sources import RecordsSource
from vita_train.storage.digest import sha256_file

_CORRECT = "correct the path; relative ones start at the registry's folder"


def own_registry(source: RecordsSource) -> Registry:
    """Return the registry of a source, its paths absolute or URIs, and its image folder in the
    place of every root but that of audio.

    Raises:
        DataError: it is missing or no registry.
        StorageError: the store that it lies in stays away.
    """
    if is_remote(source.registry):
        with tempfile.TemporaryDirectory(prefix="vita-train-") as folder:
            registry = remote_registry(source, Path(folder))
        base = source.registry.rpartition("/")[0]
        found = with_paths(registry, lambda path: joined(base, path))
    else:
        file = registry_file(source)
        found = with_paths(
            load_registry(file), lambda path: path if is_remote(path) else str(resolve(file, path))
        )
    if source.image_folder is None:
        return found
    folder = source.image_folder
    if not is_remote(folder):
        folder = str(Path(folder).expanduser().absolute())
    return _with_splits(
        found,
        lambda split: {
            "roots": {
                key: root if key == AUDIO_ROOT else folder for key, root in split.roots.items()
            }
        },
    )


def registry_file(source: RecordsSource) -> Path:
    """Return the path of a registry on this machine."""
    return Path(source.registry).expanduser().absolute()


def with_paths(registry: Registry, moved: Callable[[str], str]) -> Registry:
    """Return a registry with each record file and root put elsewhere."""

    return _with_splits(
        registry,
        lambda split: {
            "records": moved(split.records),
            "roots": {key: moved(root) for key, root in split.roots.items()},
        },
    )


def _with_splits(
    registry: Registry, changed: Callable[[SplitSource], Mapping[str, object]]
) -> Registry:
    """Return a registry in which each split has other values."""
    datasets = {
        name: dataset.model_copy(
            update={
                "splits": {
                    key: split.model_copy(update=changed(split))
                    for key, split in dataset.splits.items()
                }
            }
        )
        for name, dataset in registry.datasets.items()
    }
    return registry.model_copy(update={"datasets": datasets})


def own_versions(source: RecordsSource) -> dict[str, str]:
    """Return what changes when the registry of a source or one of its record files does.

    Raises:
        DataError: a record file is not in the store that the registry says; on this machine that
            is for `adopt_records` to say.
    """
    registry = own_registry(source)
    versions = record_versions(source, registry)
    if not is_remote(source.registry):
        versions["registry"] = sha256_file(registry_file(source))
    files = {
        split.records: Path(split.records)
        for dataset in registry.datasets.values()
        for split in dataset.splits.values()
        if not is_remote(split.records)
    }
    return versions | {
        name: sha256_file(file) for name, file in sorted(files.items()) if file.is_file()
    }


def check_records(source: RecordsSource) -> str:
    """Say what a registry names, all of whose record files are there.

    Raises:
        DataError: a file in a store is missing, or the registry is none.
        UserError: a file of this machine is missing.
    """
    registry = own_registry(source)
    record_versions(source, registry)  # they are in the store
    for name, dataset in registry.datasets.items():
        for split, entry in dataset.splits.items():
            if not is_remote(entry.records) and not Path(entry.records).is_file():
                raise UserError(
                    f"the records of {name}/{split} are missing",
                    code="VT-USE-082",
                    where=entry.records,
                    remedy="correct the path in the registry",
                )
    return f"{len(registry.datasets)} datasets in {source.registry}"


def adopt_records(source: RecordsSource, out: Path, *, seed: int, workers: int) -> Registry:
    """Return the user's registry. What lies on this machine stays where it is, by its absolute
    path; what lies in a store is copied below ``out``.

    Raises:
        DataError: it is no registry, or a file or folder that it names does not exist.
    """
    registry = own_registry(source)
    for dataset, entry in registry.datasets.items():
        for name, split in entry.splits.items():
            key = f"{source.registry}: datasets.{dataset}.{name}"
            if not is_remote(split.records) and not Path(split.records).is_file():
                raise DataError(
                    f"record file {split.records} does not exist",
                    code="VT-DATA-021",
                    where=f"{key}.records",
                    remedy=_CORRECT,
                )
            for root, folder in split.roots.items():
                if not is_remote(folder) and not Path(folder).is_dir():
                    raise DataError(
                        f"media folder {folder} does not exist",
                        code="VT-DATA-022",
                        where=f"{key}.roots.{root}",
                        remedy=_CORRECT,
                    )
    return bring(source, registry, out)
