"""Runs that were moved or copied: manifests name files by the place where they were written."""

from __future__ import annotations

from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.storage.base import FileRef, Store


def follow_move(manifest: Manifest, store: Store, run: str) -> Manifest:
    """Return a manifest that names the files of its run where they lie now.

    A file of another place (weights from outside, or of another run) keeps its URI. What is read is
    held against its digest in any case, so a file that is another is never taken for it.

    Args:
        manifest: as it was read.
        store: that holds the run.
        run: the run's name now.
    """
    here = f"{store.uri.rstrip('/')}/{run}/"

    def found(file: FileRef) -> FileRef:
        _, of_the_run, rest = file.uri.rpartition(f"/{manifest.run}/")
        if file.uri.startswith(here) or not of_the_run or not store.exists(f"{run}/{rest}"):
            return file
        return file.model_copy(update={"uri": store.uri_of(f"{run}/{rest}")})

    def module(reference: ModuleRef) -> ModuleRef:
        base = reference.base
        return reference.model_copy(
            update={
                "files": tuple(found(file) for file in reference.files),
                "base": module(base) if isinstance(base, ModuleRef) else base,
            }
        )

    return manifest.model_copy(
        update={
            "files": {name: found(file) for name, file in manifest.files.items()},
            "modules": {name: module(one) for name, one in manifest.modules.items()},
        }
    )
