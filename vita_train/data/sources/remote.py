"""Records and media that lie in an object store: brought to the machine that prepares them.

What is left in place on a disk has to be copied from a store: the record files, and of each media
root the files that records name.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vita_train.console import progress, say
from vita_train.data.sources.reading import Row, Rules, read_records
from vita_train.data.sources.registry import Registry, SplitSource, load_registry
from vita_train.errors import DataError, UserError
from vita_train.recipe.sources import RecordsSource
from vita_train.storage.base import MissingKeyError, is_local
from vita_train.storage.digest import digest_of
from vita_train.storage.factory import open_file, open_store

#: Transfers beside each other: most of a small file's time is waiting.
_TRANSFERS = 16
_CORRECT = "correct the path, or upload it; relative ones start at the registry's folder"
#: What `vita_train.storage.base.check_key` says of a name that no object can have.
_NO_KEY = "VT-USE-099"


def is_remote(name: str) -> bool:
    """Say whether a path of a registry, or a registry's own, is a URI of a store elsewhere."""
    return not is_local(name)


def remote_registry(source: RecordsSource, folder: Path) -> Registry:
    """Return a registry that lies in a store.

    Args:
        source: with the registry's URI.
        folder: scratch space for its file.

    Raises:
        DataError: it is missing or no registry.
    """
    uri = source.registry
    store, key = open_file(uri, endpoint=source.endpoint)
    local = folder / f"registry{Path(key).suffix or '.json'}"
    try:
        store.download(key, local)
        return load_registry(local)
    except MissingKeyError as error:
        raise DataError(
            "there is no registry here", code="VT-DATA-040", where=uri, remedy=_CORRECT
        ) from error
    except DataError as error:
        raise type(error)(
            error.what,
            code=error.code,
            where=error.where.replace(str(local), uri),
            remedy=error.remedy,
        ) from error
    finally:
        local.unlink(missing_ok=True)


def record_versions(source: RecordsSource, registry: Registry) -> dict[str, str]:
    """Return what changes when a registry in a store, or a record file there that it names, does.

    Raises:
        DataError: a record file is not there.
    """
    names = {source.registry} | {
        split.records for dataset in registry.datasets.values() for split in dataset.splits.values()
    }
    versions = {}
    for uri in sorted(name for name in names if is_remote(name)):
        store, key = open_file(uri, endpoint=source.endpoint)
        try:
            versions[uri] = store.version(key)
        except MissingKeyError as error:
            raise DataError(
                "this record file is not in the store",
                code="VT-DATA-041",
                where=uri,
                remedy=_CORRECT,
            ) from error
    return versions


def bring(source: RecordsSource, registry: Registry, out: Path) -> Registry:
    """Copy what lies in a store below a folder, and return the registry with the copies' paths,
    relative to the folder. Paths of this machine stay as they are.

    Args:
        source: whose endpoint is asked.
        registry: with URIs and absolute paths.
        out: the folder.

    Raises:
        DataError: a record file is missing, or of a root every file that is named.
        StorageError: the store stayed away.
    """
    wanted: dict[tuple[str, str], Path] = {}

    def split_brought(dataset: str, name: str, split: SplitSource) -> SplitSource:
        roots = {key: _folder(root) for key, root in split.roots.items()}
        records = split.records
        if is_remote(records):
            suffixes = "".join(Path(records).suffixes[-2:])
            records = f"records/{dataset}.{name}{suffixes}"
            _download_records(source, split.records, out / records)
        rules = Rules(registry.datasets[dataset].leniencies, split.default)
        for key, file in _named_files(out / records, roots, rules):
            if is_remote(split.roots[key]):
                wanted[split.roots[key], file] = out / roots[key] / file
        return split.model_copy(update={"records": records, "roots": roots})

    datasets = {
        name: dataset.model_copy(
            update={
                "splits": {
                    split: split_brought(name, split, entry)
                    for split, entry in dataset.splits.items()
                }
            }
        )
        for name, dataset in registry.datasets.items()
    }
    brought = registry.model_copy(update={"datasets": datasets})
    for root in {root for root, _ in wanted}:
        (out / _folder(root)).mkdir(parents=True, exist_ok=True)
    _download_media(source, wanted)
    return brought


def _download_records(source: RecordsSource, uri: str, path: Path) -> None:
    store, key = open_file(uri, endpoint=source.endpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.download(key, path)
    except MissingKeyError as error:
        raise DataError(
            "this record file is not in the store", code="VT-DATA-042", where=uri, remedy=_CORRECT
        ) from error


def _named_files(
    records: Path, roots: Mapping[str, str], rules: Rules
) -> Iterable[tuple[str, str]]:
    """Yield root key and name of every media file that a sound record names. What is wrong with
    the others is for the preparation to say."""
    for row in read_records(records, {key: Path(root) for key, root in roots.items()}, rules):
        if isinstance(row, Row):
            for reference in (*row.images, *row.videos, *row.audios):
                yield reference.root, reference.name


def _download_media(source: RecordsSource, wanted: Mapping[tuple[str, str], Path]) -> None:
    stores = {
        root: open_store(root, endpoint=source.endpoint)
        for root in sorted({root for root, _ in wanted})
    }

    def download(item: tuple[tuple[str, str], Path]) -> bool:
        (root, name), path = item
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stores[root].download(name, path)
        except (MissingKeyError, UserError) as error:
            if not isinstance(error, MissingKeyError) and error.code != _NO_KEY:
                raise
            return False
        return True

    missing: dict[str, int] = {}
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        items = sorted(wanted.items())
        results = progress(pool.map(download, items), len(items), "media")
        for ((root, _), _), there in zip(items, results, strict=True):
            missing[root] = missing.get(root, 0) + (not there)
    for root, number in missing.items():
        of = sum(1 for other, _ in wanted if other == root)
        if number == of:
            raise DataError(
                f"none of the {of} media files that records name is here",
                code="VT-DATA-043",
                where=root,
                remedy=_CORRECT,
            )
        if number:
            say(f"{root}: {number} of {of} media files that records name are not there")


def joined(base: str, name: str) -> str:
    """Return a registry's path as a URI, or as it is if it is one, or absolute."""
    if is_remote(name) or name.startswith(("/", "file://")):
        return name
    scheme, _, place = base.partition("://")
    return f"{scheme}://{posixpath.normpath(f'{place}/{name}')}"


def _folder(root: str) -> str:
    """Return where the copies of a root's files go, or the root itself where it is no URI."""
    return f"media/{digest_of([root])[:12]}" if is_remote(root) else root
