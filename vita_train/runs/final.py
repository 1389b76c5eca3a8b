"""``final.json``: the manifest that says a step is done. It is written last, so it is there only
when all else is."""

from __future__ import annotations

from pydantic import ValidationError

from vita_train.errors import CheckpointError
from vita_train.runs.manifest import Manifest
from vita_train.storage.base import MissingKeyError, Store
from vita_train.storage.retry import read_twice


def final_key(prefix: str) -> str:
    """Return the key of a step's manifest."""
    return f"{prefix.strip('/')}/final.json"


def write_final(store: Store, prefix: str, manifest: Manifest) -> None:
    """Write a step's manifest, whole or not at all; one that is there is replaced."""
    store.write(final_key(prefix), (manifest.model_dump_json(indent=1) + "\n").encode())


def read_final(store: Store, prefix: str) -> Manifest | None:
    """Return a step's manifest, or None if the step is not done.

    Raises:
        CheckpointError: the file is there but is no manifest.
    """
    key = final_key(prefix)
    try:
        return read_twice(lambda: Manifest.model_validate_json(store.read(key)), (ValidationError,))
    except MissingKeyError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"is damaged: {location + ': ' if location else ''}{first['msg'].lower()}",
            code="VT-WEIGHTS-010",
            where=store.uri_of(key),
            remedy="look at it and at the storage; if it really is no "
            "manifest, delete it and run the step again",
        ) from error
