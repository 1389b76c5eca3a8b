"""Where records come from: the embedded world, real media of a Debian package, or the user's own files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vita_train.data.sources.registry import Registry, load_registry, resolve
from vita_train.data.sources.synth.leaks import check_leaks
from vita_train.errors import DataError, UserError
from vita_train.recipe.data import RecordsSource, Source, SynthSource

__all__ = ["REGISTRY", "check_leaks", "fetch"]

REGISTRY = "registry.json"
_UNFINISHED = "UNFINISHED"


def fetch(source: Source, out: Path, *, seed: int, workers: int | None = None) -> Registry:
    """Bring the data of a source to ``out`` and write ``out/registry.json`` last.

    An unfinished earlier attempt is cleared away; a finished one is replaced.

    Args:
        source: what to fetch.
        out: folder of its own; it must be empty, new, or hold an earlier fetch.
        seed: of everything drawn by chance.
        workers: processes beside each other; none takes one per core. The result does not depend on it.

    Returns:
        The registry as written. For ``records`` its paths are those of the user's files, made absolute.

    Raises:
        UserError: something needed is missing, or ``out`` cannot be used.
        DataError: the data were turned down.
    """
    try:
        _open_folder(out)
        registry = _build(source, out, seed, workers or os.cpu_count() or 1)
        registry.save(out / f"{REGISTRY}.part")
        os.replace(out / f"{REGISTRY}.part", out / REGISTRY)
        (out / _UNFINISHED).unlink()
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(error.filename or out),
                        remedy="make room, or choose another folder") from error
    return registry


def _build(source: Source, out: Path, seed: int, workers: int) -> Registry:
    """Write everything but the registry. The sources are imported here, so that one does not need the other's parts."""
    if isinstance(source, SynthSource):
        from vita_train.data.sources.synth.build import build_synth

        return build_synth(source, out, seed=seed, workers=workers)
    if isinstance(source, RecordsSource):
        return _adopt(Path(source.registry))
    from vita_train.data.sources.stamps import build_stamps

    return build_stamps(source, out, seed=seed, workers=workers)


def _open_folder(out: Path) -> None:
    """Make ``out`` an empty folder marked as unfinished, without deleting anything that is not ours."""
    if out.exists():
        names = set(os.listdir(out))
        if names and not names & {REGISTRY, _UNFINISHED}:
            raise UserError("folder is not empty and holds no earlier fetch", where=str(out),
                            remedy="choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).touch()
    for entry in sorted(out.iterdir()):
        if entry.name == _UNFINISHED:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _adopt(path: Path) -> Registry:
    """The user's registry with absolute paths; every file and folder it names must exist."""
    registry = load_registry(path)
    datasets = {
        dataset: {
            name: split.model_copy(update={"records": str(resolve(path, split.records)),
                                           "roots": {key: str(resolve(path, root))
                                                     for key, root in split.roots.items()}})
            for name, split in splits.items()
        }
        for dataset, splits in registry.datasets.items()
    }
    for dataset, splits in datasets.items():
        for name, split in splits.items():
            key = f"{path}: datasets.{dataset}.{name}"
            if not Path(split.records).is_file():
                raise DataError(f"record file {split.records} does not exist", where=f"{key}.records",
                                remedy="correct the path; relative ones start at the registry's folder")
            for root, folder in split.roots.items():
                if not Path(folder).is_dir():
                    raise DataError(f"media folder {folder} does not exist", where=f"{key}.roots.{root}",
                                    remedy="correct the path; relative ones start at the registry's folder")
    return Registry(datasets=datasets)
