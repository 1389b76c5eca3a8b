"""The source of kind ``catalogue``: what `data fetch` brought, or the run fetches, as records with
a registry."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vita_train.data.adapters import ADAPTERS
from vita_train.data.adapters.base import Input
from vita_train.data.catalogue.entry import Entry
from vita_train.data.catalogue.load import Catalogue, load_catalogue
from vita_train.data.fetch.folder import DATA, data_folder
from vita_train.data.fetch.licence import unaccepted
from vita_train.data.fetch.lock import LockedSource, read_lock
from vita_train.data.fetch.run import fetch
from vita_train.data.fetch.source import with_needs
from vita_train.data.sources.own import with_paths
from vita_train.data.sources.registry import Registry
from vita_train.errors import DataError, UserError
from vita_train.plugins import named
from vita_train.recipe.sources import DOWNLOADED, CatalogueSource


def check_catalogue(source: CatalogueSource) -> str:
    """Say where a corpus was fetched to, or will be; errors are those of `build_catalogue`."""
    catalogue = load_catalogue()
    entry, _ = _adapted(source, catalogue)
    data = _folder(source)
    if source.fetch:
        _check_licences(source, catalogue, data)
        return f"{entry.title}, fetched to {data or 'the run'} if it is not there"
    _check_fetched(source.name, _named(source, data), catalogue)
    return f"{entry.title}, fetched to {data}"


def build_catalogue(source: CatalogueSource, out: Path, *, seed: int, workers: int) -> Registry:
    """Write the records of a corpus that was fetched, or is now; media stay where they are.

    Raises:
        DataError: it was not fetched, or its files are not what its adapter reads.
        StorageError: a server stayed away.
        UserError: there is no such entry, no adapter for it, no folder is named, a licence was not
            accepted, or a server or the disk refuses.
    """
    catalogue = load_catalogue()
    entry, adapter = _adapted(source, catalogue)
    data = _folder(source)
    if source.fetch:
        _check_licences(source, catalogue, data)
        data = data or out.absolute() / DOWNLOADED
        # Not where all is there: the places may be out of reach by now
        if _absent(source.name, data, catalogue):
            fetch(
                with_needs([entry], catalogue),
                data,
                catalogue=catalogue,
                accept_licence=source.accept_licence,
            )
    data = _named(source, data)
    _check_fetched(source.name, data, catalogue)
    dataset = named(ADAPTERS[adapter])(Input(entry, data, out))
    registry = Registry(datasets={source.name.replace(".", "_"): dataset})
    return with_paths(registry, partial(_below, folder=out.absolute()))


def _below(path: str, folder: Path) -> str:
    """Return a path relative to a folder that it is in, so that both may be moved."""
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path


def _adapted(source: CatalogueSource, catalogue: Catalogue) -> tuple[Entry, str]:
    """Return an entry and the name of its adapter."""
    entry = catalogue[source.name]
    if entry.adapter is None:
        raise UserError(
            f"no adapter turns the files of {source.name} into records yet",
            code="VT-USE-210",
            where=f"data.source: {source.name}",
            remedy="write a registry of your own for what was fetched, and use a source of kind "
            "records",
        )
    return entry, entry.adapter


def _folder(source: CatalogueSource) -> Path | None:
    """Return the folder that a source, or the environment, names."""
    return Path(source.folder).expanduser().absolute() if source.folder else data_folder()


def _named(source: CatalogueSource, data: Path | None) -> Path:
    if data is None:
        raise UserError(
            f"no folder with the data of {source.name} is named",
            code="VT-USE-209",
            where=f"data.source: {source.name}",
            remedy=f"set {DATA} or the source's folder to the one that vita-train data fetch "
            f"{source.name} --to DIR fills, or let the run fetch it: fetch: true",
        )
    return data


def _check_licences(source: CatalogueSource, catalogue: Catalogue, data: Path | None) -> None:
    """Check that the recipe accepts what was not accepted for the folder before.

    Raises:
        UserError: it does not.
    """
    known = read_lock(data).licences if data is not None else {}
    new = unaccepted(with_needs([catalogue[source.name]], catalogue), known)
    if new and not source.accept_licence:
        raise UserError(
            f"the licences of {', '.join(entry.name for entry in new)} were not accepted",
            code="VT-USE-309",
            where=f"data.source: {source.name}",
            remedy="read them (vita-train data show NAME), then set the source's accept_licence: "
            "true",
        )


def _check_fetched(name: str, data: Path, catalogue: Catalogue) -> None:
    """Check that an entry and all that it needs was fetched and is still there.

    Raises:
        DataError: something is not.
    """
    if absent := _absent(name, data, catalogue):
        raise DataError(
            f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not in the data folder, or "
            "not all of it",
            code="VT-DATA-065",
            where=str(data),
            remedy=f"run vita-train data fetch {name} --to {data}",
        )


def _absent(name: str, data: Path, catalogue: Catalogue) -> list[str]:
    """Return the entries, of one and those that it needs, that are not in a folder or not whole."""
    lock = read_lock(data)
    return [
        one
        for one in catalogue.with_needs([name])
        if catalogue[one].places and not _is_whole(lock.sources.get(one), data)
    ]


def _is_whole(source: LockedSource | None, data: Path) -> bool:
    if source is None or not source.complete:
        return False
    unpacked = {part for archive in source.unpacked.values() for part in archive.parts}
    return all(path in unpacked or (data / path).is_file() for path in source.files)
