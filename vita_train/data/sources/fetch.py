"""Where records come from: the embedded world, real media of a Debian package, or the user's own
files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Set
from pathlib import Path

from vita_train.data.sources.registry import Dataset, Registry
from vita_train.data.sources.synth.leaks import check_leaks
from vita_train.errors import DataError, UserError
from vita_train.plugins import named
from vita_train.recipe.data import Source
from vita_train.recipe.sources import SOURCES

__all__ = ["REGISTRY", "check_leaks", "fetch", "fetch_all"]

REGISTRY = "registry.json"
#: Files that say that a folder was made here, so that it may be made anew.
_UNFINISHED, _FETCHED = "UNFINISHED", "FETCHED"


def fetch_all(
    sources: Mapping[str, Source], out: Path, *, seed: int, workers: int | None = None
) -> Registry:
    """Bring the data of several sources to ``out``, each into a folder of its name, under one
    registry.

    Args:
        sources: what to fetch, by name.
        out: folder of its own; it must be empty, new, or hold an earlier fetch.
        seed: of everything drawn by chance.
        workers: processes beside each other; none takes one per core. The result does not depend on
            it.

    Returns:
        The registry as written, ``out/registry.json``.

    Raises:
        UserError: something needed is missing, or ``out`` cannot be used.
        DataError: the data were turned down, or two sources have a dataset of the same name.
    """

    def build(source_workers: int) -> Registry:
        datasets: dict[str, Dataset] = {}
        owners: dict[str, str] = {}
        parts: list[Registry] = []
        for name, source in sources.items():
            (out / name).mkdir(exist_ok=True)
            built = _build(source, out / name, seed, source_workers)
            for dataset, entry in built.datasets.items():
                if dataset in owners:
                    raise DataError(
                        f"both {owners[dataset]} and {name} have a dataset {dataset!r}",
                        code="VT-DATA-020",
                        where="data.source",
                        remedy="give one of the two another name in its registry",
                    )
                owners[dataset] = name
                datasets[dataset] = _below(entry, name)
            parts.append(built)
        return _joined(datasets, parts)

    return _written(build, out, sources, workers)


def fetch(source: Source, out: Path, *, seed: int, workers: int | None = None) -> Registry:
    """Bring the data of one source to ``out`` and write ``out/registry.json`` last.

    Arguments and errors as of `fetch_all`. Of ``records`` the registry's paths are those of the
    user's files, made absolute.
    """
    return _written(
        lambda source_workers: _build(source, out, seed, source_workers),
        out,
        {".": source},
        workers,
    )


def _written(
    build: Callable[[int], Registry],
    out: Path,
    sources: Mapping[str, Source],
    workers: int | None,
) -> Registry:
    """Build a registry in a folder and write it last. ``sources`` are by their folders below it.

    An unfinished earlier attempt is cleared away, but for what its sources go on from; a finished
    one is replaced.
    """
    try:
        _open_folder(out, sources)
        registry = build(workers or os.cpu_count() or 1)
        registry.save(out / f"{REGISTRY}.part")
        os.replace(out / f"{REGISTRY}.part", out / REGISTRY)
        # What it was fetched by serves only to go on: folders with the same data shall be equal
        (out / _UNFINISHED).write_bytes(b"")
        os.replace(out / _UNFINISHED, out / _FETCHED)
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror or error}",
            code="VT-USE-036",
            where=str(error.filename or out),
            remedy="make room, or choose another folder",
        ) from error
    return registry


def _build(source: Source, out: Path, seed: int, workers: int) -> Registry:
    """Write everything but the registry. The sources are imported here, so that one does not need
    the other's parts."""
    registry: Registry = named(SOURCES[source.kind].build)(source, out, seed=seed, workers=workers)
    return registry


def _joined(datasets: dict[str, Dataset], parts: list[Registry]) -> Registry:
    """Return one registry of several; groups of the same name become one."""
    groups: dict[str, list[str]] = {}
    for part in parts:
        for group, members in part.groups.items():
            groups[group] = groups.get(group, []) + members
    return Registry(
        datasets=datasets,
        groups=groups,
        no_tile_sets=sorted({key for part in parts for key in part.no_tile_sets}),
        audio_sets={name: limits for part in parts for name, limits in part.audio_sets.items()},
    )


def _below(dataset: Dataset, folder: str) -> Dataset:
    """Return a dataset whose relative paths begin one folder further up."""

    def moved(path: str) -> str:
        return path if Path(path).is_absolute() else f"{folder}/{path}"

    return dataset.model_copy(
        update={
            "splits": {
                name: split.model_copy(
                    update={
                        "records": moved(split.records),
                        "roots": {key: moved(root) for key, root in split.roots.items()},
                    }
                )
                for name, split in dataset.splits.items()
            }
        }
    )


def _open_folder(out: Path, sources: Mapping[str, Source]) -> None:
    """Make ``out`` a folder marked as unfinished, empty but for what the same sources fetched in an
    attempt that was ended, without deleting anything that is not ours."""
    if out.exists():
        names = set(os.listdir(out))
        if names and not names & {_FETCHED, _UNFINISHED}:
            raise UserError(
                "folder is not empty and holds no earlier fetch",
                code="VT-USE-037",
                where=str(out),
                remedy="choose another folder",
            )
    out.mkdir(parents=True, exist_ok=True)
    mark = out / _UNFINISHED
    mark.touch()
    settings = {name: source.model_dump(mode="json") for name, source in sources.items()}
    before = _settings_before(mark)
    kept = {
        out / name / SOURCES[source.kind].keeps
        for name, source in sources.items()
        if SOURCES[source.kind].keeps and before.get(name) == settings[name]
    }
    _clear(out, {mark, *kept})
    mark.write_text(json.dumps(settings), encoding="utf-8")


def _settings_before(mark: Path) -> dict[str, object]:
    """Return the sources of the attempt that was ended; none where that is not known."""
    try:
        return dict(json.loads(mark.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # ended before it had said so
        return {}


def _clear(folder: Path, kept: Set[Path]) -> None:
    """Delete everything in a folder but some files and folders, however deep they lie."""
    for entry in sorted(folder.iterdir()):
        if entry in kept:
            continue
        if not entry.is_dir() or entry.is_symlink():
            entry.unlink()
        elif any(entry in path.parents for path in kept):
            _clear(entry, kept)
        else:
            shutil.rmtree(entry)
