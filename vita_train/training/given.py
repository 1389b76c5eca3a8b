"""Weights that a recipe names for modules no earlier stage trains."""

from __future__ import annotations

from collections.abc import Mapping

from vita_train.errors import CheckpointError
from vita_train.manifest import GIVEN, FileRef, Manifest, ModuleRef
from vita_train.storage.digest import sha256_file
from vita_train.storage.final import read_final
from vita_train.storage.store import is_local, local_path, open_store


def given_modules(weights: Mapping[str, str], *, endpoint: str | None = None) -> dict[str, ModuleRef]:
    """Return the files of each module that a recipe names weights for, with their digests.

    Args:
        weights: module to the folder of a finished stage (any store), or to a local export folder or safetensors file.
        endpoint: of the S3 store, when it is not AWS.

    Raises:
        CheckpointError: nothing is there, or not this module.
    """
    return {name: ModuleRef(stage=GIVEN, files=_files(name, source.rstrip("/"), endpoint))
            for name, source in weights.items()}


def _files(name: str, source: str, endpoint: str | None) -> tuple[FileRef, ...]:
    if not source.endswith(".safetensors"):
        folder, _, stage = source.rpartition("/")
        manifest = read_final(open_store(folder or ("/" if source.startswith("/") else "."), endpoint=endpoint), stage)
        if manifest is not None:
            return _of_stage(name, source, manifest)
    if not is_local(source):
        raise CheckpointError("is no finished stage", where=f"weights.{name}: {source}",
                              remedy="name the folder of a stage that has a final.json, or a file on this machine")
    path = local_path(source)
    paths = [path] if path.is_file() else sorted({*path.glob(f"{name}.safetensors"),
                                                  *path.glob(f"{name}-*-of-*.safetensors")})
    if not paths:
        raise CheckpointError(f"holds no weights of {name}", where=f"weights.{name}: {source}",
                              remedy="name the folder of a finished stage, or a file with its own tensor names")
    return tuple(FileRef(uri=str(file), sha256=sha256_file(file), bytes=file.stat().st_size) for file in paths)


def _of_stage(name: str, source: str, manifest: Manifest) -> tuple[FileRef, ...]:
    if name not in manifest.modules:
        raise CheckpointError(f"holds no weights of {name}", where=f"weights.{name}: {source}",
                              remedy=f"it holds {', '.join(manifest.modules) or 'no module'}")
    return manifest.modules[name].files
