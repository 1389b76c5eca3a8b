"""The source of kind ``catalogue``: what `data fetch` brought, as records with a registry."""

from __future__ import annotations

from pathlib import Path

from vita_train.data.adapters import ADAPTERS
from vita_train.data.adapters.base import Input
from vita_train.data.catalogue.entry import Entry
from vita_train.data.catalogue.load import Catalogue, load_catalogue
from vita_train.data.fetch.folder import DATA, data_folder
from vita_train.data.fetch.lock import LockedSource, read_lock
from vita_train.data.sources.registry import Registry
from vita_train.errors import DataError, UserError
from vita_train.plugins import named
from vita_train.recipe.sources import CatalogueSource


def check_catalogue(source: CatalogueSource) -> str:
    """Say where a corpus was fetched to; errors are those of `build_catalogue`."""
    entry, _, data = _fetched(source)
    return f"{entry.title}, fetched to {data}"


def build_catalogue(source: CatalogueSource, out: Path, *, seed: int, workers: int) -> Registry:
    """Write the records of a corpus that was fetched; media stay where they are.

    Raises:
        DataError: it was not fetched, or its files are not what its adapter reads.
        UserError: there is no such entry, no adapter for it, or no folder is named.
    """
    entry, adapter, data = _fetched(source)
    dataset = named(ADAPTERS[adapter])(Input(entry, data, out))
    return Registry(datasets={source.name.replace(".", "_"): dataset})


def _fetched(source: CatalogueSource) -> tuple[Entry, str, Path]:
    """Return an entry, its adapter, and the folder that it was fetched to."""
    catalogue = load_catalogue()
    entry = catalogue[source.name]
    data = Path(source.folder).expanduser().absolute() if source.folder else data_folder()
    if data is None:
        raise UserError(
            f"no folder with the data of {source.name} is named",
            code="VT-USE-209",
            where=f"data.source: {source.name}",
            remedy=f"set {DATA} or the source's folder to the one that vita-train data fetch "
            f"{source.name} --to DIR fills",
        )
    _check_fetched(source.name, data, catalogue)
    if entry.adapter is None:
        raise UserError(
            f"no adapter turns the files of {source.name} into records yet",
            code="VT-USE-210",
            where=f"data.source: {source.name}",
            remedy="write a registry of your own for what was fetched, and use a source of kind "
            "records",
        )
    return entry, entry.adapter, data


def _check_fetched(name: str, data: Path, catalogue: Catalogue) -> None:
    """Check that an entry and all that it needs was fetched and is still there.

    Raises:
        DataError: something is not.
    """
    lock = read_lock(data)
    wanted = catalogue.with_needs([name])
    absent = [
        one
        for one in wanted
        if catalogue[one].places and not _is_whole(lock.sources.get(one), data)
    ]
    if absent:
        raise DataError(
            f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not in the data folder, or "
            "not all of it",
            code="VT-DATA-065",
            where=str(data),
            remedy=f"run vita-train data fetch {name} --to {data}",
        )


def _is_whole(source: LockedSource | None, data: Path) -> bool:
    if source is None or not source.complete:
        return False
    unpacked = {part for archive in source.unpacked.values() for part in archive.parts}
    return all(path in unpacked or (data / path).is_file() for path in source.files)
