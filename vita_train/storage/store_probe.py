"""Is a store good enough for commits? Tried, not asked: what a store says of itself differs from
what it does."""

from __future__ import annotations

import uuid

from vita_train.errors import UserError
from vita_train.storage.base import KeyExistsError, Store


def try_store(store: Store, prefix: str = "") -> None:
    """Write, read and delete a file, as a commit does: whoever comes second is told so.

    Raises:
        VitaError: the store refuses, is away, or lets a second writer replace what the first one
            wrote.
    """
    key = f"{prefix.rstrip('/')}/probe-{uuid.uuid4().hex}".lstrip("/")
    store.write(key, b"first", if_absent=True)
    try:
        store.write(key, b"second", if_absent=True)
    except KeyExistsError:
        found = store.read(key)
    else:
        raise UserError(
            "the store replaces a file that a writer asked to be absent: two launchers could both "
            "commit",
            code="VT-USE-116",
            where=store.uri_of(key),
            remedy="use a store that honours If-None-Match",
        )
    finally:
        store.delete([key])
    if found != b"first":
        raise UserError(
            "the store does not return what was written", code="VT-USE-117", where=store.uri_of(key)
        )
