"""Markers: the small files that make a checkpoint count.

A marker is never written over: where an earlier attempt has committed the step, a later one's is called
``step-00001000.restart-000002.json``. So two attempts that do not know of each other cannot undo each other's commits.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError

from vita_train.errors import PeerLostError
from vita_train.recipe.base import Strict
from vita_train.storage.base import KeyExistsError, MissingKeyError, Store

log = logging.getLogger(__name__)


class Marker(Strict):
    """What makes a checkpoint count."""

    manifest: str
    """Key of the manifest."""
    sha256: str
    """Of the manifest."""
    attempt: str
    restarts: int
    step: int


def write_marker(store: Store, stage: str, marker: Marker) -> str:
    """Write a marker under a key that nobody has taken, and return the key.

    Raises:
        PeerLostError: a later attempt, or another that took the same number, has committed this step.
    """
    text = marker.model_dump_json().encode()
    name = f"{stage}/committed/step-{marker.step:08d}"
    key = f"{name}.json"
    try:
        store.write(key, text, if_absent=True)
    except KeyExistsError:
        other = read_marker(store, key)
        if other is not None and other.restarts >= marker.restarts:
            raise PeerLostError("another start of this stage has committed this step", where=store.uri_of(key),
                                remedy="let it run; do not start one run twice at the same time") from None
        key = f"{name}.restart-{marker.restarts:06d}.json"
        store.write(key, text, if_absent=True)
    return key


def read_marker(store: Store, key: str) -> Marker | None:
    """Return a marker; None, with a warning, when it cannot be read as one."""
    try:
        return Marker.model_validate_json(store.read(key))
    except (ValidationError, MissingKeyError) as error:
        log.warning("checkpoint passed over: %s is no marker (%s)", store.uri_of(key), type(error).__name__)
        return None


def markers(store: Store, stage: str) -> list[tuple[str, Marker]]:
    """Return a stage's markers with their keys, the one to resume from first.

    A later attempt's come before an earlier one's, whatever their steps: what an attempt that was replaced went on
    to write is not part of the stage's history.
    """
    found = [(key, marker) for key in store.list(f"{stage}/committed/step-")
             if (marker := read_marker(store, key)) is not None]
    return sorted(found, key=lambda item: (item[1].restarts, item[1].step), reverse=True)
